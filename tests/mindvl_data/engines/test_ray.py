"""Tasks on two simulated nodes: order, errors, lost workers, nodes that are not like the others."""

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mindvl_data.engines import EngineError, EngineOptions, engine_of, nodes
from mindvl_data.engines.ray import RayEngine
from mindvl_data.runtime.seals import DamagedFileError
from mindvl_data.steps.scores import ScoreError
from tests.conftest import QUICKSTART
from tests.ray_cluster import NODE, two_nodes
from tests.test_command_line import failed

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[RayEngine]:
    with RayEngine(cluster.address) as engine:
        yield engine


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_no_cluster_is_said_at_once(tmp_path: Path, address: str) -> None:
    out = ("--out", tmp_path, "--engine", "ray", "--address", address)
    message = failed("build", QUICKSTART / "recipe.yaml", *out)
    assert f"no Ray cluster answers at {address}" in message
    assert "Start one (`ray start --head`" in message


def node_after(seconds: float) -> str:
    import ray

    time.sleep(seconds)
    return str(ray.get_runtime_context().get_node_id())


def double(number: int) -> int:
    time.sleep(0.02 * (3 - number % 4))
    return 2 * number


def test_results_come_in_the_order_of_the_tasks_and_their_sizes_are_told(engine: RayEngine) -> None:
    told: list[tuple[int, int, str]] = []
    found = engine.run(double, range(40), lambda finished, of, note="": told.append((finished, of, note)), [5] * 40)
    assert found == [2 * number for number in range(40)]
    assert told[-1] == (200, 200, "")
    assert [finished for finished, _, _ in told] == sorted(finished for finished, _, _ in told)
    assert engine.run(double, []) == []
    assert engine.workers == 2


def together(folder: Path) -> str:
    """The node, once two tasks run at a time."""
    (folder / str(os.getpid())).touch()
    for _ in range(600):
        if len(list(folder.iterdir())) == 2:
            break
        time.sleep(0.1)
    return node_after(0)


def test_both_nodes_work(engine: RayEngine, tmp_path: Path) -> None:
    assert len(set(engine.run(together, [tmp_path] * 2))) == 2


def wrong(error: Exception | None) -> None:
    if error:
        raise error


# The last is what Ray's own connections raise, too.
@pytest.mark.parametrize("error", [ScoreError("do this"), DamagedFileError(Path("a")), ConnectionResetError("do this")])
def test_an_error_of_a_task_is_the_error_that_it_raised(engine: RayEngine, error: Exception) -> None:
    with pytest.raises(type(error), match=rf"^{re.escape(str(error))}$") as caught:
        engine.run(wrong, [None, None, error, None])
    assert vars(caught.value) == vars(error)
    assert "in wrong" in str(caught.value.__cause__), "and where it was raised is there for --debug"


def surroundings(_: int) -> dict[str, object]:
    import pyarrow as pa

    pa.array([1])
    threads = os.environ["POLARS_MAX_THREADS"], os.environ["OMP_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"]
    return {"threads": threads, "pandas": "pandas" in sys.modules}


def test_a_worker_is_set_up_as_on_one_machine(engine: RayEngine) -> None:
    assert engine.run(surroundings, [0, 1]) == [{"threads": ("1", "1", "false"), "pandas": False}] * 2


def dies_first(folder: Path) -> str:
    if not list(folder.iterdir()):
        (folder / "died").touch()
        os._exit(9)
    return "done"


def test_a_task_whose_worker_dies_is_sent_again(engine: RayEngine, tmp_path: Path) -> None:
    notes: set[str] = set()
    assert engine.run(dies_first, [tmp_path], lambda finished, of, note="": notes.add(note)) == ["done"]
    assert any("1 lost and sent again" in note for note in notes)


def dies(number: int) -> None:
    if number == 1:
        os._exit(9)


def swells(number: int) -> None:
    if number == 1:
        raise MemoryError


@pytest.mark.parametrize(("task", "said"), [(dies, "died 3 times"), (swells, "ran out of memory 3 times")])
def test_a_task_that_kills_its_workers_is_given_up_with_what_to_do(engine: RayEngine, task: Any, said: str) -> None:
    with pytest.raises(
        EngineError, match=rf"{said}.*what was finished is kept: run the same command again, .*--workers"
    ):
        engine.run(task, range(4))
    assert engine.run(double, [1]) == [2], "and the cluster is of use for others"


def test_tasks_that_want_a_device_go_where_there_is_one(cluster: Any, engine: RayEngine) -> None:
    with pytest.raises(EngineError, match="no node of the cluster has the device cuda"):
        engine.run(node_after, [0], device="cuda")
    assert engine.run(double, [1], device="auto") == [2]
    node = cluster.add_node(**NODE, num_gpus=1)
    time.sleep(1.5)
    assert set(engine.run(node_after, [0, 0, 0], device="cuda")) == {node.node_id}
    assert set(engine.run(node_after, [0, 0, 0], device="auto")) == {node.node_id}
    with pytest.raises(EngineError, match="no node of the cluster has the device npu"):
        engine.run(node_after, [0], device="npu")
    cluster.remove_node(node)


def alone(folder: Path) -> int:
    mine = folder / str(os.getpid())
    mine.touch()
    time.sleep(0.2)
    together = len(list(folder.iterdir()))
    mine.unlink()
    return together


def test_no_more_tasks_run_at_a_time_than_are_wanted(cluster: Any, tmp_path: Path) -> None:
    with RayEngine(cluster.address, most=1) as narrow:
        assert set(narrow.run(alone, [tmp_path] * 5)) == {1}
        assert narrow.workers == 1


def test_nodes_with_other_code_or_other_folders_are_refused_by_name(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "installed", lambda: {"mindvl_data": "9.9 (abc)", "polars": "0.1"})
    with RayEngine(cluster.address) as other:
        other.share(tmp_path, [])
        with pytest.raises(EngineError) as caught:
            other.run(double, [1])
    lines = str(caught.value).splitlines()
    named = [line for line in lines if line.startswith("  ")]
    assert len(named) == 4, "two faults of each of two nodes"
    assert all(os.uname().nodename in line for line in named)
    assert sum("the build runs with 9.9 (abc)" in line for line in named) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_on_a_machine_is_said(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a")
    files = {str(tmp_path / "recipe.yaml"): "b", str(tmp_path / "none"): "c"}
    wanted: nodes.Wanted = {"installed": {**nodes.installed(), "polars": "0.1", "the plugin x": "1"}, "files": files}
    found = nodes.problems(wanted)
    assert any(line.startswith("has polars 2") and "the build runs with 0.1" in line for line in found)
    assert "has the plugin x not at all, the build runs with 1" in found
    assert [line for line in found if "does not see" in line] == [f"does not see {path} as it is" for path in files]
    assert "cannot write into" in str(nodes.leave_mark(tmp_path / "none" / "mark"))


# What a machine without this package looks like to a worker there.
MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mindvl_data":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
"""


def elsewhere(folder: Path) -> dict[str, str]:
    """The environment of a node without this package."""
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "sitecustomize.py").write_text(MISSING)
    return {"PYTHONPATH": str(folder / "elsewhere")}


def until(folder: Path) -> None:
    """A short task, of no length once `folder` has a file `enough`; it notes its node there."""
    if not (folder / "enough").exists():
        (folder / node_after(0.2)).touch()


def test_a_node_that_joins_is_used_and_one_that_is_not_like_the_others_is_not(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (seen := tmp_path / "seen").mkdir()
    with RayEngine(cluster.address) as engine, caplog.at_level(logging.WARNING):
        engine.share(tmp_path, [])
        engine.run(until, [seen])
        work = threading.Thread(target=engine.run, args=(until, [seen] * 2000))
        work.start()
        strange = cluster.add_node(**NODE, env_vars=elsewhere(tmp_path))
        fresh = cluster.add_node(**NODE)
        patience = 600
        while not ("no tasks go to the node" in caplog.text and (seen / fresh.node_id).exists()) and patience:
            time.sleep(0.1)
            patience -= 1
        (seen / "enough").touch()
        work.join()
    assert patience, caplog.text
    assert caplog.text.count("no tasks go to the node") == 1
    assert "which has no mindvl_data, or another version of it" in caplog.text
    assert not (seen / strange.node_id).exists()
    with (
        RayEngine(cluster.address) as engine,
        pytest.raises(EngineError, match="has no mindvl_data, or another version"),
    ):
        engine.run(double, [1])
    cluster.remove_node(strange)
    cluster.remove_node(fresh)


def test_an_address_that_is_of_no_use_is_said() -> None:
    with pytest.raises(EngineError, match="--address names a cluster, and the local engine has none"):
        engine_of("local", EngineOptions(None, "auto"))
    assert isinstance(engine_of("ray", EngineOptions(None, None)), RayEngine)

"""Files and folders that appear whole, or not at all, also where two write the same one."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindvl_data.atomic import PARTIAL, partial_of, publish, whole

ROOT = Path(__file__).parent.parent.parent


def half_written(folder: Path) -> None:
    folder.mkdir()
    (folder / "c").write_text("half")
    raise OSError("no disk")


def test_nothing_is_there_before_the_end_and_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole(path) as partial:
        partial.write_text("b")
        assert not path.exists()
    assert path.read_text() == "b"
    with pytest.raises(OSError, match="disk"), whole(path) as partial:
        half_written(partial)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "b"


def test_of_two_who_write_the_same_folder_neither_fails_and_one_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole(path) as late:
        late.mkdir()
        (late / "c").write_text("same")
        early = tmp_path / "other.partial"
        early.mkdir()
        (early / "c").write_text("same")
        publish(early, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (path / "c").read_text() == "same"


def test_two_processes_write_under_names_of_their_own(tmp_path: Path) -> None:
    code = (
        f"import pathlib; from mindvl_data.atomic import partial_of; print(partial_of(pathlib.Path({str(tmp_path)!r})))"
    )
    other = Path(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    mine = partial_of(tmp_path)
    assert mine != other
    assert mine == partial_of(tmp_path)
    assert mine.match(PARTIAL)
    assert other.match(PARTIAL)


# Calls that put a file under its name, or fill one, and the modules of both packages that may make them.
WRITING = {
    "rename",
    "replace",
    "write_text",
    "write_bytes",
    "write_parquet",
    "write_table",
    "new_file",
    "ParquetWriter",
}
SAFE = {"whole", "atomic.whole", "seals.sealed", "new_folder"}
BELOW_THE_RUNTIME = {
    # Known by their hash in the manifest or by their name, and checked against that by every reader.
    "mindvl_data/manifest/document.py",
    "mindvl_data/manifest/reading.py",
    "mindvl_data/shards/cache.py",
}


def _is_path(call: ast.Call) -> bool:
    """Whether this rename or replace is one of a path: strings and dataclasses take other arguments, columns a name."""
    return len(call.args) == 1 and not call.keywords and "column" not in ast.unparse(call.args[0])


def written_by(path: Path) -> set[str]:
    """The names of calls that write, outside a block of `whole` or `sealed`."""
    found: set[str] = set()

    def visit(node: ast.AST, safe: bool) -> None:
        if isinstance(node, ast.With):
            names = {name for item in node.items for name in re.findall(r"[\w.]+", ast.unparse(item))}
            safe = safe or not SAFE.isdisjoint(names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not safe:
            on_path = node.func.attr not in ("replace", "rename") or _is_path(node)
            owner = ast.unparse(node.func.value)
            if node.func.attr in WRITING and on_path and owner not in ("atomic", "dataclasses"):
                found.add(f"{path.relative_to(ROOT)}: {node.func.attr}")
        for child in ast.iter_child_nodes(node):
            visit(child, safe)

    visit(ast.parse(path.read_text()), False)
    return found


# What fills a folder or file that its caller makes appear, and what has its own way to do just that.
OTHERWISE = BELOW_THE_RUNTIME | {
    # Signs that a folder is seen by every node, and of what is brought from a store: empty, or never read again.
    "mindvl_data/engines/nodes.py",
    "mindvl_data/engines/ray.py",
    "mindvl_data/runtime/mirror.py",
    "mindvl_data/exports/parquet.py",
    "mindvl_data/exports/rewards.py",
    "mindvl_data/tables/store_writer.py",
    "mindvl_data/tables/videos.py",
    "mindvl_train/weights/published/videos.py",
    "mindvl_data/exports/hub.py",
    "mindvl_data/exports/mds.py",
    "mindvl_data/exports/tars.py",
    "mindvl_data/exports/uids.py",
    "mindvl_data/pipeline/publish.py",
    "mindvl_data/atomic.py",
    "mindvl_data/steps/scan/__init__.py",
    "mindvl_data/steps/scores/joined.py",
    "mindvl_train/weights/checkpoint.py",
    "mindvl_train/weights/durable.py",
    "mindvl_train/weights/imported.py",
    "mindvl_train/weights/processing.py",
    "mindvl_train/weights/published/exporting.py",
    "mindvl_train/weights/published/processor.py",
    "mindvl_train/weights/tensor_files.py",
}


def test_every_place_that_writes_is_known() -> None:
    places = {place for package in ("mindvl_data", "mindvl_train") for place in (ROOT / package).rglob("*.py")}
    found = {written.split(":")[0] for path in places for written in written_by(path)}
    assert found == OTHERWISE, "write through `atomic` or `runtime.seals`, or say here why not"

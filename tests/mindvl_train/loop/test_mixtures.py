"""Stages of several sets: by weights, by a schedule, and chosen step by step."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mindvl_data.manifest import ManifestError
from mindvl_train.config.loading import load_config
from mindvl_train.config.schema import ConfigError
from mindvl_train.loop.metrics import read_records
from mindvl_train.loop.stages import MissingManifestError, MixtureError
from tests.mindvl_train.short_runs import Stop, StopAt, records_of, run_of
from tests.mindvl_train.synthetic import TINY_MODEL, mixed_packs, pack_of, text_sample, write_data_set

SETS = {"a": {"manifest": "a/manifest.json"}, "b": {"manifest": "b/manifest.json"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_data_set(folder / "data" / "a", mixed_packs(5, 24, seed=1))
    rng = np.random.default_rng(5)
    write_data_set(folder / "data" / "b", [pack_of([text_sample(rng, 20)], 24, 50 + i) for i in range(7)])
    write_data_set(folder / "data" / "long", mixed_packs(2, 32, seed=2))
    return folder


def run_yaml(folder: Path, name: str, **stage: Any) -> Path:
    full = {"lr": {"*": 1e-3}, "until": {"packs": 40}, "global_batch": 2, "mixture": SETS, **stage}
    run = {
        "name": "mixed",
        "data": str(folder / "data"),
        "model": {"name": "vlm", "config": TINY_MODEL},
        "checkpoint": {"every_steps": 1, "keep": 2},
        "losses": True,
        "stages": {"only": full},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def steps_of(out: Path) -> list[dict[str, Any]]:
    return [record for record in read_records(out / "metrics.jsonl") if record["event"] == "step"]


def test_a_schedule_moves_from_one_set_to_the_other(folder: Path, tmp_path: Path) -> None:
    moving = {"a": {**SETS["a"], "weight": [[0, 1.0], [40, 0.0]]}, "b": {**SETS["b"], "weight": [[0, 0.0], [40, 1.0]]}}
    path = run_yaml(folder, "schedule", mixture=moving)
    run_of(path, tmp_path / "whole")
    steps = steps_of(tmp_path / "whole")
    assert len(steps) == 20
    # Pictures are in the first set alone.
    images = [step["images"] for step in steps]
    assert sum(images[:7]) > sum(images[7:14]) > sum(images[14:])
    for stop in (3, 12):
        with pytest.raises(Stop):
            run_of(path, tmp_path / "cut", stop=StopAt("step", stop))
    run_of(path, tmp_path / "cut")
    assert records_of(tmp_path / "cut") == records_of(tmp_path / "whole")


def test_epochs_of_a_mixture_are_those_of_the_first_set_that_has_had_them(folder: Path, tmp_path: Path) -> None:
    run_of(run_yaml(folder, "epochs", until={"epochs": 2}), tmp_path)
    # One to one, until `a` would begin a third time: ten packs of it, and ten or eleven of the other.
    assert len(steps_of(tmp_path)) in (10, 11)


@pytest.mark.parametrize("every", [1, 4])
def test_odm_draws_what_is_harder_and_goes_on_where_it_was_killed(folder: Path, tmp_path: Path, every: int) -> None:
    rule = {"name": "odm", "every": every, "warmup": 3, "scale": 20.0}
    path = run_yaml(folder, f"odm-{every}", control=rule)
    run_of(path, tmp_path / "whole")
    steps = steps_of(tmp_path / "whole")
    told = [record for record in read_records(tmp_path / "whole" / "metrics.jsonl") if record["event"] == "mixture"]
    assert len(told) == 20 // every
    assert told[0]["shares"] == {"a": 0.5, "b": 0.5}
    assert told[-1]["shares"] != told[0]["shares"]
    assert {step["set"] for step in steps} == {"a", "b"}
    assert all(step["images"] == 0 for step in steps if step["set"] == "b")
    # In the middle of a block and at its end.
    for stop in (4, 10):
        with pytest.raises(Stop):
            run_of(path, tmp_path / "cut", stop=StopAt("step", stop))
    run_of(path, tmp_path / "cut")
    assert records_of(tmp_path / "cut") == records_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"manifest": "a/manifest.json"}, "give either `manifest` or `mixture"),
        ({"mixture": None}, "give either `manifest` or `mixture"),
        ({"control": {"name": "odm"}, "until": {"epochs": 1}}, r"control: .* give `until: \{packs: N\}` or tokens"),
        ({"control": {"name": "odm"}, "mixture": {"a": SETS["a"]}}, "chooses among two or more sets"),
        ({"selection": {"name": "seta"}, "until": {"epochs": 2}}, "an epoch is selected of one set"),
    ],
)
def test_what_cannot_be_is_named(folder: Path, stage: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(run_yaml(folder, "wrong", **stage))


def test_sets_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    long = {**SETS, "long": {"manifest": "long/manifest.json"}}
    for control in (None, {"name": "given"}):
        with pytest.raises(ManifestError, match=r"a mixture needs one seq_len: .*long/manifest.json \(32\)"):
            run_of(run_yaml(folder, "long", mixture=long, control=control), tmp_path)
    with pytest.raises(MissingManifestError, match=r"stages.only.mixture.c.manifest: .*none.json does not exist"):
        run_of(run_yaml(folder, "none", mixture={**SETS, "c": {"manifest": "none.json"}}), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_sets_that_weigh_a_source_otherwise_are_refused(folder: Path, tmp_path: Path) -> None:
    for name, weight in (("heavy", 2.0), ("light", 0.5)):
        path = folder / "data" / name
        if not path.exists():
            write_data_set(path, mixed_packs(2, 24, seed=len(name)))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["sources"] = {"made-up": {"files": [], "weight": weight}}
        text = json.dumps(manifest)
        (path / "manifest.json").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (path / "manifest.json.sha256").write_text(f"{digest}  manifest.json\n")
    sets = {name: {"manifest": f"{name}/manifest.json"} for name in ("heavy", "light")}
    with pytest.raises(MixtureError, match=r"source made-up weighs 0\.5 here and 2 in another set"):
        run_of(run_yaml(folder, "weights", mixture=sets), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{"control": {"name": "odm", "every": 3}}, {}])
def test_worker_processes_deliver_the_same(folder: Path, tmp_path: Path, rule: dict[str, Any]) -> None:
    path = run_yaml(folder, "workers", until={"packs": 16}, **rule)
    run_of(path, tmp_path / "threads")
    run_of(path, tmp_path / "processes", "loader.kind=processes")
    assert records_of(tmp_path / "processes") == records_of(tmp_path / "threads")

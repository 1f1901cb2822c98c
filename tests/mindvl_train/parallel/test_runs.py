"""Whole runs on several ranks: they end where one process ends, and go on anywhere, on any other mesh too."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest

from mindvl_train.config.loading import load_config
from mindvl_train.loop.metrics import Record, read_records
from mindvl_train.loop.run import Run, train
from tests.mindvl_train.parallel.pool import Pool
from tests.mindvl_train.short_runs import Stop
from tests.mindvl_train.synthetic import TINY_MODEL, write_run

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "dense_layers": (0,)}
BALANCED = MOE | {"scoring": "sigmoid", "balance_speed": 1e-3}
MODEL = {"name": "vlm", "config": TINY_MODEL | {"decoder": TINY_MODEL["decoder"] | {"moe": BALANCED}}}
STEPS = 20
NAMES = ("alone", "moved")


def job(_: Path, yaml: str, out: str, overrides: list[str], stop_at: int | None) -> None:
    """A run, up to its end or to the record of a step."""
    log = Run._log

    def log_or_stop(run: Run, record: Record) -> None:
        log(run, record)
        if (record["event"], record["step"]) == ("step", stop_at):
            raise Stop

    # On every rank at once, as when a machine goes; only the first has loggers.
    with patch.object(Run, "_log", log_or_stop):
        try:
            train(load_config(Path(yaml), overrides), yaml, Path(out))
        except Stop:
            assert stop_at


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two short stages, one of the projector alone; with experts and a balance."""
    path = write_run(tmp_path_factory.mktemp("run"), model=MODEL)
    return str(path)


# Two steps of the projector, then twenty of everything; a global batch that 1, 2 and 4 ranks can share.
SHORT = [
    "stages.warmup.until={packs: 8}",
    "stages.warmup.global_batch=4",
    "stages.everything.global_batch=4",
    "stages.everything.micro_batch=1",
    f"stages.everything.until={{packs: {STEPS * 3}}}",
    "checkpoint.every_steps=5",
    "losses=true",
]


def losses(out: Path) -> dict[tuple[str, int], float]:
    """Of every step and evaluation, and of every sample in its last step."""
    found = {(r["event"], r["step"]): r["loss"] for r in read_records(out / "metrics.jsonl") if "loss" in r}
    lines = pq.read_table(out / "losses.parquet").to_pylist()
    return found | {(f"{line['sample_id']}, {line['tokens']}", line["step"]): line["loss"] for line in lines}


@pytest.fixture(scope="module")
def alone(pool: Pool, run_yaml: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], float]:
    """The losses of one rank."""
    out = tmp_path_factory.mktemp("alone")
    pool.run(1, job, run_yaml, str(out), SHORT, None)
    return losses(out)


MESHES = {
    "shard 2, expert 2": (2, ["mesh.expert=2"]),
    "replicate 2, tensor 2": (4, ["mesh.replicate=2", "mesh.tensor=2"]),
    "context 2, expert 4": (4, ["mesh.context=2", "mesh.expert=4"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shard 2, expert 2", "context 2, expert 4"])
def test_a_run_on_many_ranks_has_the_losses_of_one(
    pool: Pool, run_yaml: str, alone: dict[Any, float], name: str, tmp_path: Path
) -> None:
    ranks, overrides = MESHES[name]
    pool.run(ranks, job, run_yaml, str(tmp_path), [*SHORT, *overrides], None)
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-4)
    step = next(r for r in read_records(tmp_path / "metrics.jsonl") if r["event"] == "step")
    assert step["imbalance_attention"] >= 1.0
    state = json.loads((next((tmp_path / "checkpoints").glob("*-everything")) / "state.json").read_text())
    assert len([name for name in state["files"] if name.startswith("weights/")]) == ranks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [("shard 2, expert 2", "context 2, expert 4"), ("replicate 2, tensor 2", "shard 2, expert 2")]
)
def test_a_run_goes_on_on_another_mesh(
    pool: Pool, run_yaml: str, alone: dict[Any, float], before: str, after: str, tmp_path: Path
) -> None:
    for name, stop in ((before, 9), (after, None)):
        ranks, overrides = MESHES[name]
        pool.run(ranks, job, run_yaml, str(tmp_path), [*SHORT, *overrides], stop)
    assert losses(tmp_path) == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_on_the_same_mesh_it_goes_on_bit_for_bit(pool: Pool, run_yaml: str, tmp_path: Path) -> None:
    ranks, overrides = MESHES["replicate 2, tensor 2"]
    arguments = [*SHORT, *overrides, "stages.everything.until={packs: 20}", "checkpoint.every_steps=2"]
    pool.run(ranks, job, run_yaml, str(tmp_path / "whole"), arguments, None)
    pool.run(ranks, job, run_yaml, str(tmp_path / "cut"), arguments, 5)
    pool.run(ranks, job, run_yaml, str(tmp_path / "cut"), arguments, None)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_stage_that_selects_goes_on_on_another_mesh(pool: Pool, run_yaml: str, tmp_path: Path) -> None:
    """Epochs keep the same segments, and every rank plans the same packs."""
    rule = "stages.everything.selection={name: infobatch, prune: 0.5}"
    arguments = [*SHORT[:4], "stages.everything.until={epochs: 5}", "checkpoint.every_steps=1", rule]
    pool.run(1, job, run_yaml, str(tmp_path / "alone"), arguments, None)
    # One step and then the middle of an epoch of two steps.
    for ranks, stop in ((2, 3), (4, 7), (2, None)):
        pool.run(ranks, job, run_yaml, str(tmp_path / "moved"), arguments, stop)
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    epochs = [[r for r in read_records(tmp_path / name / "metrics.jsonl") if r["event"] == "epoch"] for name in NAMES]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 5


@pytest.mark.slow
def test_sets_that_odm_chooses_are_the_same_on_another_mesh(pool: Pool, run_yaml: str, tmp_path: Path) -> None:
    sets = "stages.everything.mixture={a: {manifest: first/manifest.json}, b: {manifest: holdout/manifest.json}}"
    rule = "stages.everything.control={name: odm, every: 2, scale: 10.0}"
    stage = ["stages.everything.manifest=null", "stages.everything.until={packs: 40}", "checkpoint.every_steps=1"]
    arguments = [*SHORT[:4], sets, rule, *stage, "losses=true"]
    pool.run(1, job, run_yaml, str(tmp_path / "alone"), arguments, None)
    for ranks, stop in ((2, 5), (4, 8), (2, None)):
        pool.run(ranks, job, run_yaml, str(tmp_path / "moved"), arguments, stop)
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    chosen = [[r["set"] for r in read_records(tmp_path / name / "metrics.jsonl") if "set" in r] for name in NAMES]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 10
    assert set(chosen[0]) == {"a", "b"}

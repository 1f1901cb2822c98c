"""Losses as data: what is written of every sample, whatever kills the run."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mindvl_data.stream import PackStream
from mindvl_train.config.loading import load_config
from mindvl_train.data.batch import collate
from mindvl_train.data.held_out import samples
from mindvl_train.loop.assembly import assemble
from mindvl_train.loop.losses import LossLog, SampleLosses, forget_after, last_losses, write_last
from mindvl_train.loop.metrics import read_records
from mindvl_train.models.initialise import give_weights
from tests.mindvl_train.short_runs import Stop, StopAt, run_of
from tests.mindvl_train.synthetic import LAYOUT, write_run

ONLY = ["stages.warmup.until={packs: 7}", "stages.everything.until={packs: 6}", "losses=true"]


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def sample(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def seen(*visits: tuple[str, float, int]) -> SampleLosses:
    names, loss, tokens = zip(*visits, strict=True)
    return SampleLosses(tuple(map(sample, names)), ("s",) * len(names), np.array(loss), np.array(tokens))


def table(folder: Path) -> dict[str, tuple[float, int, int]]:
    lines = pq.read_table(folder / "losses.parquet").to_pylist()
    return {line["sample_id"]: (line["loss"], line["tokens"], line["step"]) for line in lines}


def test_every_samples_loss_is_that_of_the_sample_alone(run_yaml: Path, tmp_path: Path) -> None:
    # Rates so small that no weight moves.
    still = [f"stages.{name}.lr={{'*': 1.0e-30}}" for name in ("warmup", "everything")]
    run_of(run_yaml, tmp_path, *ONLY, *still)
    parts = assemble(load_config(run_yaml, ONLY), str(run_yaml))
    give_weights(parts.model, parts.config.seed, torch.device("cpu"), None)
    written = table(tmp_path)
    stage = parts.stages[1]
    for pack in PackStream(stage.manifest):
        for one in samples(pack):
            batch = collate([one], LAYOUT)
            with torch.no_grad():
                losses, _ = parts.model.predictions(batch)  # type: ignore[operator]
            loss, tokens, step = written[one.sample_ids[0].hex()]
            assert (tokens, step > 4) == (len(losses), True)
            assert loss == pytest.approx(losses.mean().item(), rel=1e-5)
    steps = [record for record in read_records(tmp_path / "metrics.jsonl") if record["event"] == "step"]
    for record in steps:
        assert record["sources"]["made-up"]["loss"] == pytest.approx(record["loss"], rel=1e-5)
        assert record["sources"]["made-up"]["loss_tokens"] == record["loss_tokens"]


def test_a_killed_run_leaves_the_same_losses(run_yaml: Path, tmp_path: Path) -> None:
    run_of(run_yaml, tmp_path / "whole", *ONLY)
    for stop in (3, 5):
        with pytest.raises(Stop):
            run_of(run_yaml, tmp_path / "cut", *ONLY, stop=StopAt("step", stop))
    run_of(run_yaml, tmp_path / "cut", *ONLY)
    assert table(tmp_path / "cut") == table(tmp_path / "whole")


def test_without_the_setting_nothing_is_written(run_yaml: Path, tmp_path: Path) -> None:
    run_of(run_yaml, tmp_path, *ONLY[:2])
    assert not list(tmp_path.glob("losses*"))


def test_of_several_visits_the_last_counts_and_ranks_of_one_step_add_up(tmp_path: Path) -> None:
    one, other = LossLog(tmp_path, 0), LossLog(tmp_path, 1)
    one.note(1, seen(("a", 8.0, 2), ("b", 3.0, 3)))
    one.note(2, seen(("a", 1.0, 1)))
    other.note(2, seen(("a", 5.0, 2), ("none", 0.0, 0), ("nan", float("nan"), 2)))
    one.flush(2)
    other.flush(2)
    one.note(4, seen(("b", 9.0, 3)))
    one.flush(4)
    write_last(tmp_path)
    assert table(tmp_path) == {sample("a"): (2.0, 3, 2), sample("b"): (3.0, 3, 4)}
    assert last_losses(tmp_path, up_to=1).mean.tolist() in ([4.0, 1.0], [1.0, 4.0])
    forget_after(tmp_path, 3)
    write_last(tmp_path)
    assert table(tmp_path) == {sample("a"): (2.0, 3, 2), sample("b"): (1.0, 3, 1)}


def test_nothing_seen_is_an_empty_table(tmp_path: Path) -> None:
    LossLog(tmp_path, 0).flush(0)
    write_last(tmp_path)
    assert table(tmp_path) == {}

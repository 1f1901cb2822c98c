"""Trackers take a run's numbers without a network: what is logged is there to be read."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mindvl_train import plugins
from mindvl_train.loop.metrics import LoggerError, numbers
from mindvl_train.loop.trackers import MlflowLogger, TrackioLogger, WandbLogger

STEP: dict[str, Any] = {
    "event": "step",
    "step": 3,
    "stage": "sft",
    "loss": 2.5,
    "lr": {"vision.*": 0.1},
    "sources": {"a": {"loss": 1.5, "loss_tokens": 4}},
    "mfu": float("nan"),
}


def test_numbers_are_named_by_their_event() -> None:
    assert numbers(STEP) == {"step/loss": 2.5, "step/lr/vision.*": 0.1, "step/loss/a": 1.5}


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio", "tensorboard", "jsonl"])
def test_each_is_a_plugin(name: str, tmp_path: Path) -> None:
    assert plugins.load(plugins.LOGGERS, name)(tmp_path)


def test_mlflow_has_the_curves_of_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for first in (-1, 2):
        logger = MlflowLogger(tmp_path / "a-run")
        logger.begin(first, 0, 0)
        logger.log(STEP)
        logger.close()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("a-run")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"a-run-0", "a-run-2"}
    (point,) = client.get_metric_history(runs["a-run-2"].info.run_id, "step.loss")
    assert (point.step, point.value) == (3, 2.5)


@pytest.mark.slow
def test_wandb_writes_a_run_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(tmp_path)
    logger.begin(-1, 0, 0)
    logger.log(STEP)
    logger.close()
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    # Its own process writes, and may still be at it.
    deadline = time.monotonic() + 20
    while b"step/loss/a" not in kept.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_trackio_keeps_the_numbers_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    logger = TrackioLogger(tmp_path / "a-run")
    logger.begin(-1, 0, 0)
    logger.log(STEP)
    logger.close()
    assert list((tmp_path / "trackio").rglob("*.db"))


def test_a_tracker_that_is_not_installed_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = TrackioLogger(tmp_path)
    monkeypatch.setattr(TrackioLogger, "module", "trackio_that_is_not_there")
    with pytest.raises(LoggerError, match=r"pip install 'mindvl\[trackio_that_is_not_there\]'"):
        logger.begin(-1, 0, 0)
    assert json.dumps(numbers(STEP))

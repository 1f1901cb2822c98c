"""TensorBoard's curves: what is logged, and again after a run went on."""

from pathlib import Path

import pytest

from mindvl_train.loop.metrics import TensorBoardLogger


def test_numbers_become_curves_and_voided_steps_are_hidden(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for begin, steps in ((-1, (1, 2, 3)), (1, (2, 3))):
        logger = TensorBoardLogger(tmp_path)
        logger.begin(begin, 0, 0)
        for step in steps:
            record = {"event": "step", "step": step, "loss": float(step), "stage": "sft", "lr": {"*": 0.5}}
            logger.log(record)
        logger.close()
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert read.Tags()["scalars"] == ["step/loss", "step/lr/*"]
    assert [(event.step, event.value) for event in read.Scalars("step/loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]

"""What a run logs, and what becomes of it when the run goes on."""

import math
from pathlib import Path

import pytest

from mindvl_train.loop.metrics import FILE_NAME, JsonlLogger, TensorBoardLogger, read_records


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


def test_what_was_logged_of_an_average_that_was_not_published_is_void(tmp_path: Path) -> None:
    ends = [("step", ""), ("evaluation", "sft"), ("stage", "sft"), ("evaluation", "mean"), ("average", "mean")]
    for _ in range(2):
        logger = JsonlLogger(tmp_path)
        logger.begin(4, 0, 0)
        for event, stage in ends if not read_records(tmp_path / FILE_NAME) else ends[3:]:
            logger.log({"event": event, "step": 4, "stage": stage})
        logger.close()
    assert [(each["event"], each["stage"]) for each in read_records(tmp_path / FILE_NAME)] == ends


def test_the_log_is_json_whatever_is_no_number(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    logger.begin(-1, 0, 0)
    logger.log({"event": "step", "step": 1, "loss": math.nan, "lr": {"*": math.inf}, "list": [-math.inf, 1.5]})
    logger.close()
    text = (tmp_path / FILE_NAME).read_text()
    assert text == '{"event": "step", "step": 1, "loss": null, "lr": {"*": null}, "list": [null, 1.5]}\n'

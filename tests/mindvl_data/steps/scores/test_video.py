"""Scores of clips by their headers, and what models of pictures are shown of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mindvl_data.steps.scores import NO_CLIPS, Clips, Wanted
from mindvl_data.steps.scores.compute import Pictures, ScoreTask, score
from mindvl_data.steps.scores.samples import Asked, batches
from mindvl_data.steps.scores.video import duration, fps, frames, has_audio
from tests import clips
from tests.mindvl_data.packs import png
from tests.mindvl_data.sources.scanned import Scanned, read


def test_a_sample_is_what_its_clips_are_together() -> None:
    found = Clips(
        np.array([3.0, 1.0, 2.0]),
        np.array([10.0, 25.0, 5.0]),
        np.array([30, 25, 10]),
        np.array([False, True, False]),
        np.array([0, 2, 2, 3]),
    )
    assert duration(found).to_list() == [4.0, None, 2.0]
    assert fps(found).to_list() == [10.0, None, 5.0]
    assert frames(found).to_list() == [55, None, 10]
    assert has_audio(found).to_list() == [True, None, False]
    assert [len(score(NO_CLIPS)) for score in (duration, fps, frames, has_audio)] == [0, 0, 0, 0]


@pytest.fixture
def scanned(tmp_path: Path) -> Scanned:
    (tmp_path / "a.mp4").write_bytes(clips.clip("h264.mp4"))
    (tmp_path / "sound.webm").write_bytes(clips.clip("vp9.webm", audio=True))
    (tmp_path / "f.png").write_bytes(png(2))
    turns = [{"from": "gpt", "value": "x"}]
    rows = [
        {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>"}, *turns]},
        {"image": "f.png", "conversations": [{"from": "human", "value": "<image>"}, *turns]},
        {"videos": ["sound.webm"], "conversations": [{"from": "human", "value": "<video>"}, *turns]},
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    return read(tmp_path / "x.json", "llava")


def pictures(scanned: Scanned) -> Pictures:
    folder = Path(scanned.task.file.place).parent
    return Pictures(folder, ("",), folder, 10**8)


def test_columns_are_computed_from_the_table_of_clips(scanned: Scanned, tmp_path: Path) -> None:
    names = ("duration", "has_audio", "blankness")
    wanted = {tmp_path / f"{name}.parquet": Wanted(name, name) for name in names}
    score(ScoreTask(scanned.task.samples, wanted, pictures(scanned)))
    made = {name: pl.read_parquet(tmp_path / f"{name}.parquet")[name].to_list() for name in names}
    assert made["duration"] == [pytest.approx(3.0), None, pytest.approx(3.0)]
    assert made["has_audio"] == [False, None, True]
    assert all(0 < value < 1 for value in made["blankness"][::2])


def test_models_see_a_few_frames_of_a_clip_as_pictures(scanned: Scanned) -> None:
    asked = Asked(scanned.task.samples, np.arange(3), pl.Series(["a", "b", "c"]), pictures(scanned))
    (batch,) = batches(asked, 8)
    assert [len(images) for images in batch.images] == [4, 1, 4]
    assert batch.images[1] == [png(2)]
    shown = [np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in batch.images[0]]
    # From the middles of four equal parts of 30 frames.
    for picture, number in zip(shown, (3, 11, 18, 26), strict=True):
        assert np.abs(picture - clips.drawing(number)).mean() < 20

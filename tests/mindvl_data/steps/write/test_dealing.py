"""Dealing: a set whose images are sorted by shard first has the bytes of one that is read where it lies."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from mindvl_data.shards import ShardInfo
from mindvl_data.steps.write import assemble, dealing, plan_deals, write
from mindvl_data.steps.write.reads import Ranges
from tests.conftest import QUICKSTART
from tests.mindvl_data.steps.write.made import ways_of_one_set


def test_a_dealt_set_has_the_same_bytes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "RUN_BYTES", 30_000)
    monkeypatch.setattr(dealing, "CHUNK_BYTES", 9_000)
    monkeypatch.setattr(assemble, "WINDOW_BYTES", 12_000)
    tasks, segments = ways_of_one_set(tmp_path, "direct")
    assert len(tasks) > 3
    direct = [write(task) for task in tasks]
    tasks, segments = ways_of_one_set(tmp_path, "dealt")
    deals, moved = plan_deals(tasks, segments, tmp_path / "deals", scattered=True)
    assert len(deals) > 3
    for number, task in enumerate(deals):
        dealing.deal(task)
        assert len(list(task.folder.iterdir())) > 1, number
    # In any order: each group of shards removes its own files, once all of it is written.
    infos: dict[str, ShardInfo] = {}
    for task in moved[::-1]:
        infos[task.path.name] = write(task)
    assert [infos[info.path] for info in direct] == direct
    assert [path for path in (tmp_path / "deals").rglob("*") if path.is_file()] == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_every_image_lies_where_it_was_said_to_lie(images: list[tuple[int, int, int]]) -> None:
    columns = np.array(images, np.int64).T
    ranges = Ranges(["a", "b", "c", "d"], *columns)
    group = np.sort(np.random.default_rng(0).integers(0, 5, len(images))).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "RUN_BYTES", 25)
        rows, dealt = dealing.runs(ranges, group)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(images)))
    files: dict[tuple[int, int], int] = {}
    for run, mine in enumerate(rows):
        for row in mine.tolist():
            place = (run, int(group[row]))
            assert (dealt.run[row], dealt.offset[row]) == (run, files.get(place, 0))
            files[place] = files.get(place, 0) + int(ranges.size[row])


def test_only_many_scattered_images_are_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    def scattered(offsets: np.ndarray, size: int) -> bool:
        ranges = Ranges(["a"], np.zeros(len(offsets), np.int32), offsets, np.full(len(offsets), size))
        return dealing.is_scattered(ranges, [(0, len(offsets) // 2), (len(offsets) // 2, len(offsets))])

    monkeypatch.setattr(dealing, "FEW_BYTES", 1_000_000)
    apart = np.random.default_rng(0).permutation(1000) * 1_000_000
    assert scattered(apart, 10_000)
    assert not scattered(apart, 500_000), "a read gives enough"
    assert not scattered(np.arange(1000) * 10_000, 10_000), "they lie in order"
    assert not scattered(apart[:90], 10_000), "they are few"


def test_a_whole_build_that_deals_is_the_build_that_does_not(
    quickstart: BuildReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "FEW_BYTES", 0)
    monkeypatch.setattr(dealing, "LEAST_READ", 1 << 40)
    monkeypatch.setattr(dealing, "RUN_BYTES", 1 << 20)
    report = build(load_recipe(QUICKSTART / "recipe.yaml"), tmp_path / "out")
    assert report.work["deal sft-4096"] > 1
    for stage in quickstart.stages:
        assert read_manifest(report.out / stage.name).data == read_manifest(quickstart.out / stage.name).data
    assert not list((tmp_path / "out").rglob("*.dealt"))

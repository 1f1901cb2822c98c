"""Batches come in order, ahead of the loop, with a cursor that counts what the loop received."""

from pathlib import Path

import pytest

from mindvl_data.stream import PackStream
from mindvl_train.data.batch import BatchError
from mindvl_train.data.loader import Loader
from tests.mindvl_train.synthetic import LAYOUT, mixed_packs, write_data_set


def _loader(manifest: Path, *, ahead: int = 3, workers: int = 2, packs: int = 0, micro_batch: int = 1) -> Loader:
    stream = PackStream(manifest, global_batch=2, epochs=None)
    stream.load_state_dict({"manifest": stream.manifest.id, "packs": packs})
    return Loader(stream, 2, micro_batch, LAYOUT, workers, ahead)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "set", mixed_packs(7, 24))


@pytest.mark.parametrize(("ahead", "workers"), [(1, 1), (3, 2), (20, 3)])
def test_the_cursor_counts_what_was_delivered_not_what_is_ready(manifest: Path, ahead: int, workers: int) -> None:
    """Seven packs two at a time: the fourth step is filled, and the cursor stays a count of real packs."""
    steps = _loader(manifest, ahead=ahead, workers=workers).steps(limit=6)
    assert [step.cursor.packs for step in steps] == [2, 4, 6, 7, 9, 11]


def test_a_loader_goes_on_from_any_cursor(manifest: Path) -> None:
    whole = [[batch.packs for batch in step.batches] for step in _loader(manifest).steps(8)]
    cursors = [0] + [step.cursor.packs for step in _loader(manifest).steps(7)]
    for done, packs in enumerate(cursors):
        rest = _loader(manifest, packs=packs).steps(8 - done)
        assert [[batch.packs for batch in step.batches] for step in rest] == whole[done:]


def test_micro_batches_split_a_step(manifest: Path) -> None:
    joined, split = (next(iter(_loader(manifest, micro_batch=size).steps(1))) for size in (2, 1))
    assert [batch.packs for batch in joined.batches] == [(0, 1)]
    assert [batch.packs for batch in split.batches] == [(0,), (1,)]


def test_a_bad_pack_stops_the_loop_where_it_is_reached(tmp_path: Path) -> None:
    packs = mixed_packs(4, 24)
    packs[3].tokens[:] = LAYOUT.image_pad
    steps = _loader(write_data_set(tmp_path / "bad", packs)).steps(2)
    assert next(steps).batches[0].packs == (0,)
    with pytest.raises(BatchError, match="pack 3"):
        next(steps)

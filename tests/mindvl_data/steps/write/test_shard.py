"""A shard from its sources: what is embedded is what the sources hold, and a changed source is found."""

from collections import deque
from pathlib import Path

import pytest

from mindvl_data.media import MediaError
from mindvl_data.shards import ShardReader, pack_digest, write_shard
from mindvl_data.steps.write import assemble, write, written
from mindvl_data.tables.store import open_store
from tests.mindvl_data.steps.write.made import ways_of_one_set


@pytest.mark.parametrize("window", [1, 10_000, 1 << 30])
def test_packs_hold_their_images_whatever_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(assemble, "WINDOW_BYTES", window)
    tasks, _ = ways_of_one_set(tmp_path, "out")
    for task in tasks:
        info = write(task)
        assert written(task) == info
        segments = task.segments.places()
        for pack in ShardReader(task.path):
            found = iter(pack.images)
            for _ in range(3):
                partition, row = next(segments)
                store = open_store(task.stores[partition])
                source = (tmp_path / store.uris[0]).read_bytes()
                for image in store.images[store.image_starts[row] : store.image_starts[row + 1]]:
                    assert next(found).data == source[image["offset"] :][: image["size"]]
            assert next(found, None) is None


@pytest.mark.parametrize("media", ["embed", "reference"])
def test_a_shard_of_columns_has_the_bytes_of_its_packs_written_one_by_one(tmp_path: Path, media: str) -> None:
    tasks, _ = ways_of_one_set(tmp_path, "out", media)
    for task in tasks:
        info = write(task)
        with ShardReader(task.path) as reader:
            assert write_shard(tmp_path / task.path.name, reader, task.seq_len, task.sources) == info
            assert info.pack_digests == tuple(map(pack_digest, reader))


def test_a_source_that_was_cut_or_removed_stops_the_shard(tmp_path: Path) -> None:
    tasks, _ = ways_of_one_set(tmp_path, "out")
    source = tmp_path / "source-0.bin"
    source.write_bytes(source.read_bytes()[:-50_000])
    with pytest.raises(MediaError, match=r"source-0\.bin .* changed since it was scanned"):
        deque(map(write, tasks))
    source.unlink()
    with pytest.raises(MediaError, match=r"source-0\.bin .* cannot be read .* was the source moved"):
        deque(map(write, tasks))


def test_a_shard_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    """As where a worker is lost once it is done: what it read may be gone."""
    tasks, _ = ways_of_one_set(tmp_path, "out")
    first = [write(task) for task in tasks]
    for number in (0, 1):
        (tmp_path / f"source-{number}.bin").unlink()
    assert [write(task) for task in tasks] == first


def test_referenced_media_are_not_read(tmp_path: Path) -> None:
    tasks, _ = ways_of_one_set(tmp_path, "out", "reference")
    for number in (0, 1):
        (tmp_path / f"source-{number}.bin").unlink()
    for task in tasks:
        write(task)
        assert all(image.data is None and image.uri for pack in ShardReader(task.path) for image in pack.images)

"""Shards in object stores: the same packs as from disk, whatever the store does, or an error that says where."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mindvl_data.manifest import ManifestError, pack_costs, read_manifest
from mindvl_data.manifest.verify import verify
from mindvl_data.shards import Patience, ShardCache, StoreError, cache, pack_digest
from mindvl_data.stream import PackStream
from tests.mindvl_data.flaky import Mood, Store, served
from tests.mindvl_data.packs import make_manifest, make_pack
from tests.mindvl_data.s3 import s3_server

QUICK = Patience(tries=3, pause=0.01, timeout=0.5)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of four packs."""
    return make_manifest(tmp_path_factory.mktemp("stores") / "set", [make_pack(i) for i in range(20)])


@pytest.fixture
def store(packed: Path) -> Iterator[Store]:
    with served(packed.parent.parent) as store:
        yield store


def digests(manifest: object, **arguments: object) -> list[bytes]:
    return [pack_digest(pack) for pack in PackStream(manifest, **arguments)]  # type: ignore[arg-type]


def test_a_set_in_s3_is_the_set_on_disk(packed: Path, tmp_path: Path) -> None:
    with s3_server("bucket") as client:
        for path in packed.parent.iterdir():
            client.upload_file(str(path), "bucket", f"build/set/{path.name}")
        manifest = read_manifest("s3://bucket/build/set", ShardCache(tmp_path))
        assert manifest.id == read_manifest(packed).id
        assert digests(manifest) == digests(packed)
        assert [texts for _, texts in verify(manifest) if texts] == []
    # What was fetched stays, and serves another epoch without the store.
    assert len(digests(manifest, epochs=2)) == 40


def test_costs_of_a_set_in_a_store_are_read_where_they_lie(packed: Path, store: Store, tmp_path: Path) -> None:
    manifest = read_manifest(f"{store.url}/set", ShardCache(tmp_path, patience=QUICK))
    assert pack_costs(manifest).tolist() == pack_costs(read_manifest(packed)).tolist()
    assert not list(tmp_path.glob("*.file"))


@pytest.mark.parametrize("kind", ["error", "silent", "short"])
def test_a_store_that_fails_for_a_while_is_asked_again(store: Store, packed: Path, tmp_path: Path, kind: str) -> None:
    store.mood = lambda name, start, times: kind if name == "shard-00002.arrow" and times < 3 else "ok"
    manifest = read_manifest(f"{store.url}/set", ShardCache(tmp_path, patience=QUICK))
    assert digests(manifest) == digests(packed)
    assert store.asked["shard-00002.arrow", 0] == 3


@pytest.mark.parametrize(("kind", "cause"), [("error", "503"), ("silent", "no answer within 0.5 s"), ("short", "")])
def test_a_store_that_goes_on_failing_is_an_error_with_shard_and_offset(
    store: Store, tmp_path: Path, kind: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "BLOCK_BYTES", 4096)
    store.mood = lambda name, start, times: kind if name == "shard-00001.arrow" and start == 8192 else "ok"
    packs = iter(PackStream(read_manifest(f"{store.url}/set", ShardCache(tmp_path, patience=QUICK))))
    assert [next(packs).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(StoreError, match=rf"shard-00001\.arrow \[8192, \+4096\]: the store failed 3 times.*{cause}"):
        next(packs)
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_not_what_the_manifest_says_is_never_kept(store: Store, tmp_path: Path) -> None:
    store.mood = lambda name, start, times: "wrong" if name == "shard-00000.arrow" else "ok"
    manifest = read_manifest(f"{store.url}/set", ShardCache(tmp_path, patience=QUICK))
    with pytest.raises(StoreError, match=r"shard-00000\.arrow: altered"):
        next(iter(PackStream(manifest)))
    assert not list(tmp_path.glob("*.file"))
    assert any("altered" in text for name, texts in verify(manifest) for text in texts)


def test_a_cached_file_that_was_damaged_is_fetched_again(store: Store, packed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(f"{store.url}/set", ShardCache(tmp_path))
    digests(manifest)
    for path in tmp_path.glob("*.file"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert digests(manifest) == digests(packed)
    assert store.asked["shard-00000.arrow", 0] == 2


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sha256"])
def test_a_manifest_that_is_not_there_or_damaged_is_named(store: Store, tmp_path: Path, name: str) -> None:
    store.mood = lambda asked, start, times: "wrong" if asked == name else "ok"
    with pytest.raises(ManifestError, match="altered"):
        read_manifest(f"{store.url}/set", ShardCache(tmp_path))
    with pytest.raises(StoreError, match=r"none/manifest\.json: no such file"):
        read_manifest(f"{store.url}/none/manifest.json", ShardCache(tmp_path))


def test_a_cache_smaller_than_a_shard_says_what_to_set(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="MINDVL_CACHE_GB"):
        digests(read_manifest(f"{store.url}/set", ShardCache(tmp_path, max_bytes=1000)))


READER = """
import sys
from pathlib import Path
from mindvl_data.manifest import read_manifest
from mindvl_data.shards import ShardCache
from mindvl_data.stream import PackStream
manifest = read_manifest(sys.argv[1], ShardCache(Path(sys.argv[2]), int(sys.argv[3])))
print([pack.index for pack in PackStream(manifest, epochs=int(sys.argv[4]))])
"""


def reader(store: Store, folder: Path, limit: int, epochs: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, f"{store.url}/set", folder, str(limit), str(epochs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_share_one_cache_under_its_limit(store: Store, packed: Path, tmp_path: Path) -> None:
    shards = read_manifest(packed).shards
    limit = int(2.5 * max(shard.bytes for shard in shards))
    readers = [reader(store, tmp_path / "small", limit, 2) for _ in range(2)]
    largest = 0
    while any(each.poll() is None for each in readers):
        largest = max(largest, kept(tmp_path / "small"))
        time.sleep(0.002)
    assert all(len(eval(each.communicate()[0])) == 40 for each in readers)
    assert 0 < largest <= limit
    store.asked.clear()
    readers = [reader(store, tmp_path / "large", 10 * limit, 2) for _ in range(2)]
    assert all(len(eval(each.communicate()[0])) == 40 for each in readers)
    assert {times for (name, _), times in store.asked.items() if name.endswith(".arrow")} == {1}, "one fetches for all"


def kept(folder: Path) -> int:
    """Bytes in a cache at one moment; a file that is renamed meanwhile counts once."""
    sizes = {}
    for path in [*folder.glob("*.partial"), *folder.glob("*.file")]:
        with suppress(FileNotFoundError):
            sizes[path.stem] = path.stat().st_size
    return sum(sizes.values())


@pytest.mark.slow
def test_a_process_killed_while_it_fetches_leaves_nothing_that_counts(
    store: Store, packed: Path, tmp_path: Path
) -> None:
    stuck: Mood = lambda name, start, times: "silent" if name == "shard-00002.arrow" else "ok"  # noqa: E731
    store.mood = stuck
    killed = reader(store, tmp_path, 1 << 30, 1)
    while not store.asked["shard-00002.arrow", 0]:
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    store.mood = lambda name, start, times: "ok"
    assert len(list(tmp_path.glob("*.partial"))) == 1
    assert digests(read_manifest(f"{store.url}/set", ShardCache(tmp_path))) == digests(packed)
    assert not list(tmp_path.glob("*.partial"))

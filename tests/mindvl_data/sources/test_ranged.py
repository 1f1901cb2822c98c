"""Files in stores, read by ranges as a stream: the samples of a local copy, within bounds, whatever the store does."""

import io
import itertools
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.inspect.peek import peek
from mindvl_data.sources import Asked, Failed, ImageBytes, Record, Scattered, SourceError, ranged, tar, webdataset
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.sources.ranged import Ranged, RangedFile
from mindvl_data.steps.scan import Rules, ScanTask, scan
from tests.mindvl_data.crawl import picture
from tests.mindvl_data.packs import png

CHUNK = 2048
MIB = 1 << 20
GIANT = 10 << 30


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Chunks so small that every file has many, and a store without memory of an earlier test."""
    monkeypatch.setattr(ranged, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(tar, "RUN_BYTES", CHUNK)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield
    MemoryFileSystem.store.clear()


def in_memory(data: bytes, name: str = "a.tar") -> SourceFile:
    fsspec.filesystem("memory").pipe_file(f"/data/{name}", data)
    return found(f"memory://data/{name}")


def found(place: str) -> SourceFile:
    return source_files((place,), (place,), None, Path("/"), FingerprintCache())[0]


def archive(members: Sequence[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.SYMTYPE if name.endswith(".link") else tarfile.REGTYPE
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def plain(records: Iterator[Record]) -> list[Any]:
    """Records as plain values, without the names of their files."""
    return [
        (record, [])
        if isinstance(record, Failed)
        else (
            record._replace(images=[]),
            [(bytes(image.data), image.offset) for image in record.images if isinstance(image, ImageBytes)],
        )
        for record in records
    ]


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """A store that fails every `each`-th request, and counts."""

    protocol = "failing"
    each = 10
    asked = 0
    bytes_given = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("failing://", "memory://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        Failing.asked += 1
        if Failing.asked % self.each == 0:
            raise OSError("reset by peer")
        data = bytes(super().cat_file(path, start, end, **more))
        Failing.bytes_given += len(data)
        return data


fsspec.register_implementation("failing", Failing, clobber=True)


@given(
    size=st.integers(0, 5 * CHUNK),
    spans=st.lists(st.tuples(st.integers(0, 6 * CHUNK), st.integers(0, 6 * CHUNK)), max_size=8),
    whole=st.booleans(),
)
@settings(max_examples=40)
def test_slices_are_those_of_the_bytes(size: int, spans: list[tuple[int, int]], whole: bool) -> None:
    data = bytes(itertools.islice(itertools.cycle(range(251)), size))
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/x", data)
    bytes_there = Ranged(fs, "/x", size, "x", whole)
    file, twin = RangedFile(bytes_there), io.BytesIO(data)
    assert len(bytes_there) == size
    for start, length in spans:
        assert bytes_there[start : start + length] == data[start : start + length]
        assert file.seek(start) == twin.seek(start)
        assert file.read(length) == twin.read(length)
        assert file.tell() == (start + len(data[start : start + length]))
    assert len(bytes_there._chunks) <= ranged.KEPT + ranged.AHEAD


KEYS = st.sampled_from(["a", "b", "sub/c"])
MEMBER = st.tuples(
    st.tuples(KEYS, st.sampled_from(["png", "1.png", "txt", "json", "cls", "link", "odd"])).map(".".join),
    st.sampled_from([png(1), b'{"caption": "x"}', b"text", b"", bytes(3 * CHUNK)]),
)


@given(
    members=st.lists(MEMBER, max_size=12),
    cut=st.none() | st.integers(0, 40_000),
    damage=st.none() | st.integers(0, 40_000),
)
@settings(max_examples=120, deadline=None)
def test_a_streamed_tar_gives_the_records_of_a_local_copy(
    members: list[tuple[str, bytes]], cut: int | None, damage: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(archive(members)[:cut])
    if damage is not None and damage < len(data):
        data[damage : damage + 600] = b"\xff" * len(data[damage : damage + 600])
    path = tmp_path_factory.mktemp("local") / "a.tar"
    path.write_bytes(data)
    stored = in_memory(bytes(data))
    try:
        streamed = plain(webdataset.read(stored, Asked()))
    except Scattered:
        streamed = plain(webdataset.read(replace(stored, one_pass=False), Asked()))
    assert streamed == plain(webdataset.read(found(str(path)), Asked()))


def test_keys_that_come_again_are_read_in_two_passes(tmp_path: Path) -> None:
    stored = in_memory(archive([("a.png", png(1)), ("b.png", png(2)), ("a.txt", b"A"), ("b.txt", b"B")]))
    with pytest.raises(Scattered):
        list(webdataset.read(stored, Asked()))
    task = ScanTask(
        "s", "webdataset", stored, Asked(), Rules(), False, None, tmp_path / "s.parquet", tmp_path / "s.bin"
    )
    scan(task)
    samples = peek("memory://data/a.tar").samples
    assert [[part.text for part in sample.parts] for sample in samples] == [[None, "A"], [None, "B"]]


def test_one_request_in_ten_fails_and_the_samples_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "CHUNK_BYTES", 16 * CHUNK)
    members = [(f"{i:03d}.{end}", data) for i in range(60) for end, data in (("png", png(i)), ("txt", b"t%d" % i))]
    data = archive(members)
    (tmp_path / "a.tar").write_bytes(data)
    in_memory(data)
    Failing.asked = Failing.bytes_given = 0
    got = plain(webdataset.read(found("failing://data/a.tar"), Asked()))
    assert got == plain(webdataset.read(found(str(tmp_path / "a.tar")), Asked()))
    assert Failing.asked > 10
    assert Failing.bytes_given <= len(data), "every byte is asked for once"


def test_a_store_that_goes_on_failing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory(archive([("a.png", png(1)), ("a.txt", b"A")]))
    stored = found("failing://data/a.tar")
    monkeypatch.setattr(Failing, "each", 1)
    with pytest.raises(
        SourceError, match=r"failing://data/a\.tar \[0, \+2048\]: the store failed 5 times.*reset by peer"
    ):
        list(webdataset.read(stored, Asked()))


def test_a_file_that_shrinks_meanwhile_is_named() -> None:
    data = archive([(f"{i}.txt", bytes(CHUNK)) for i in range(9)])
    stored = in_memory(data)
    fsspec.filesystem("memory").pipe_file("/data/a.tar", data[: 3 * CHUNK])
    with pytest.raises(SourceError, match=r"a\.tar .*the file changed"):
        list(webdataset.read(stored, Asked()))


# A tar of gigabytes that lies nowhere: its samples, a large picture and a short text each, are made when asked for.
GIANT_STORE = """
import sys, tarfile
import fsspec

BLOCK = 512

def header(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()

class Giant(fsspec.AbstractFileSystem):
    protocol = "giant"
    given = 0

    def __init__(self, samples=0, picture=b"", **more):
        super().__init__(**more)
        self.samples, self.size_of_picture = samples, len(picture)
        self.picture = memoryview(picture + bytes(-len(picture) % BLOCK))
        self.one = len(self.picture) + 3 * BLOCK

    @property
    def size(self):
        return self.samples * self.one + 2 * BLOCK

    def info(self, path, **more):
        return {"name": path, "size": self.size, "type": "file", "ETag": "giant"}

    def members(self, number):
        if number >= self.samples:
            return [bytes(2 * BLOCK)]
        picture, text = header(f"{number:08d}.png", self.size_of_picture), b"number %08d" % number
        return [picture, self.picture, header(f"{number:08d}.txt", len(text)), text.ljust(BLOCK, bytes(1))]

    def cat_file(self, path, start=None, end=None, **more):
        parts, number = [], start // self.one
        position = number * self.one
        while position < end:
            for part in self.members(number):
                parts.append(part[max(0, start - position) : max(0, end - position)])
                position += len(part)
            number += 1
        Giant.given += end - start
        return b"".join(parts)
"""
SCANNED = r"""
import re, tempfile
from pathlib import Path
import pyarrow.parquet as pq
from mindvl_data.sources import Asked
from mindvl_data.sources import files
from mindvl_data.sources.files import FingerprintCache, source_files
from mindvl_data.steps.scan import Rules, ScanTask, scan

out, size, head = Path(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
picture = head + bytes(int(sys.argv[4]) - len(head))
fsspec.register_implementation("giant", Giant)
one = Giant(samples=1, picture=picture).one
fsspec.config.conf["giant"] = {"samples": size // one, "picture": picture}
file = source_files(("giant://x/a.tar",), ("giant://x/a.tar",), None, out, FingerprintCache())[0]
assert file.size > size - 2 * one
scan(ScanTask("s", "webdataset", file, Asked(), Rules(), False, None, out / "s.parquet", out / "s.bin"))
rows = pq.read_metadata(out / "s.parquet").num_rows
# Not ru_maxrss: it counts what the process was before it became this program, which is pytest.
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
print(rows, size // one, Giant.given / file.size, peak)
"""


def scanned_giant(out: Path, size: int, picture_bytes: int) -> tuple[int, int, float, int]:
    """Rows, samples, bytes asked for by those there are, and the most memory the process had."""
    command = [sys.executable, "-c", GIANT_STORE + SCANNED, str(out), str(size), picture(1).hex(), str(picture_bytes)]
    environment = {"PATH": "", "TMPDIR": "/proc/nowhere"}  # no temporary file can be made
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    rows, samples, share, peak = ended.stdout.split()
    return int(rows), int(samples), float(share), int(peak)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "picture_bytes"), [(GIANT, 4 * MIB), (1 << 30, 100_000)])
def test_a_tar_of_gigabytes_scans_within_256_mib(tmp_path: Path, size: int, picture_bytes: int) -> None:
    rows, samples, share, peak = scanned_giant(tmp_path, size, picture_bytes)
    assert rows == samples
    assert share <= 1.001, "what is read is asked for once"
    assert peak < 256 * MIB

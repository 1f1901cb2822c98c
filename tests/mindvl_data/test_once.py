"""A file's hash is computed once a host, and again when the file is another."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindvl_data.shards import file_sha256, once, sha256_once
from mindvl_data.stream import PackStream
from tests.mindvl_data.packs import make_manifest, make_pack


def notes(folder: Path) -> list[Path]:
    """The notes that lie there, without the sign of when they were last swept."""
    return [path for path in (folder / f"mindvl-{os.getuid()}").iterdir() if path.name != once.SWEPT]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were really hashed; notes lie in a folder of the test's own."""
    hashed: list[Path] = []

    def hashing(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(once, "file_sha256", hashing)
    monkeypatch.setattr(once.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(once, "RACY_SECONDS", 0.0)
    return hashed


def test_a_file_is_hashed_once_until_it_changes(counted: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert sha256_once(path) == sha256_once(path) == file_sha256(path)
    assert len(counted) == 1
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sha256_once(path) == file_sha256(path), "set back in time, but not by what counts"
    assert len(counted) == 2


def test_a_file_that_may_still_change_unseen_is_hashed_each_time(
    counted: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "RACY_SECONDS", 60.0)
    path = tmp_path / "file"
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        assert sha256_once(path) == file_sha256(path)
    assert len(counted) == 3


def test_a_note_holds_for_a_day_and_is_swept_later(counted: list[Path], tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"one")
    sha256_once(path)
    (note,) = notes(tmp_path)
    old = time.time() - once.REMEMBERED_SECONDS - 60
    os.utime(note, (old, old))
    sha256_once(path)
    assert len(counted) == 2
    os.utime(note, (old - once.REMEMBERED_SECONDS, old - once.REMEMBERED_SECONDS))
    os.utime(note.with_name(once.SWEPT), (old, old))
    other.write_bytes(b"two")
    sha256_once(other)
    assert not note.exists()


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_notes_that_others_may_write_or_read_are_not_trusted(counted: list[Path], tmp_path: Path, mode: int) -> None:
    (tmp_path / f"mindvl-{os.getuid()}").mkdir()
    (tmp_path / f"mindvl-{os.getuid()}").chmod(mode)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert sha256_once(path) == sha256_once(path)
    assert len(counted) == 2


def test_notes_are_swept_once_a_day_and_not_for_every_file(
    counted: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[Path] = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: (swept.append(path), real(path))[1])
    for number in range(50):
        path = tmp_path / f"file-{number}"
        path.write_bytes(bytes([number]))
        sha256_once(path)
    assert len(counted) == 50
    assert swept == [tmp_path / f"mindvl-{os.getuid()}"]


def test_half_a_note_is_none(counted: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    found = sha256_once(path)
    (note,) = notes(tmp_path)
    note.write_text(found[:20])
    assert sha256_once(path) == found


def test_a_stream_hashes_what_it_opens_and_not_before(counted: list[Path], tmp_path: Path) -> None:
    path = make_manifest(tmp_path / "set", [make_pack(i) for i in range(12)])
    streams = [PackStream(path, rank, 4) for rank in range(4)]
    assert counted == []
    for stream in streams:
        next(iter(stream))
    assert [shard.name for shard in counted] == ["shard-00000.arrow"]


ASK = "import sys, time; from pathlib import Path; from mindvl_data.shards import once; " + (
    "once.RACY_SECONDS = 0; real = once.file_sha256; "
    "once.file_sha256 = lambda path: (print('hashed'), time.sleep(0.5), real(path))[2]; "
    "once.sha256_once(Path(sys.argv[1]))"
)


def test_processes_that_ask_at_once_wait_for_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    asking = [
        subprocess.Popen([sys.executable, "-c", ASK, path], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert sum(each.communicate()[0].count("hashed") for each in asking) == 1

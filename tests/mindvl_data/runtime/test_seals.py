"""Files that are trusted later: whole or not there, and found out when they are not what was written."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.runtime import seals


def write(path: Path, data: bytes = b"0123456789") -> Path:
    with seals.sealed(path) as partial:
        partial.write_bytes(data)
    return path


def write_folder(path: Path) -> None:
    with seals.sealed(path) as partial:
        partial.mkdir()
        for name in ("a", "b"):
            (partial / name).write_bytes(b"x")


def test_a_cut_folder_is_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "a").write_bytes(b"")
    assert not seals.is_whole(tmp_path / "folder")
    write_folder(tmp_path / "folder")
    assert seals.is_whole(tmp_path / "folder")


@settings(deadline=None, max_examples=30)
@given(data=st.binary(min_size=1, max_size=64), where=st.data())
def test_any_cut_or_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("sealed") / "file", data)
    assert seals.is_whole(path)
    assert seals.checked(path) == path
    cut = where.draw(st.integers(0, len(data) - 1))
    path.write_bytes(data[:cut])
    assert not seals.is_whole(path)
    with pytest.raises(seals.DamagedFileError):
        seals.checked(path)
    bit = where.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    assert seals.is_whole(path)
    with pytest.raises(seals.DamagedFileError, match="not as it was written"):
        seals.checked(path)


@pytest.mark.parametrize("seal", [b"", b"{", b"[]", b'{"files": {"": "x"}, "beside": []}', b"\xff"])
def test_a_damaged_seal_seals_nothing(tmp_path: Path, seal: bytes) -> None:
    path = write(tmp_path / "file")
    path.with_name(path.name + seals.SEAL).write_bytes(seal)
    assert not seals.is_whole(path)
    with pytest.raises(seals.DamagedFileError):
        seals.checked(path)


def test_a_file_is_whole_only_with_what_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    other = write(tmp_path / "media" / "other")
    with seals.sealed(tmp_path / "file", [other]) as partial:
        partial.touch()
    assert seals.is_whole(tmp_path / "file")
    seals.discard(other)
    assert not seals.is_whole(tmp_path / "file")


def test_only_the_files_about_to_be_used_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "b").write_bytes(b"y")
    seals.checked(tmp_path / "folder", ["a"])
    with pytest.raises(seals.DamagedFileError):
        seals.checked(tmp_path / "folder")


def test_the_error_comes_out_of_a_worker_with_its_path(tmp_path: Path) -> None:
    error = pickle.loads(pickle.dumps(seals.DamagedFileError(tmp_path / "x")))
    assert error.path == tmp_path / "x"

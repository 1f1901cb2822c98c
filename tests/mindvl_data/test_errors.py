"""Whatever a library raises while it reads a file is that file's fault, and says so by name."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from mindvl_data.errors import UserError, reading
from mindvl_data.runtime import plugins
from mindvl_data.sources import SourceError
from mindvl_data.sources.subset import UidSubset
from tests.mindvl_data.sources.scanned import read


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), EOFError(), RecursionError("x")])
def test_what_a_library_raises_names_the_file(error: Exception) -> None:
    said = rf"^a\.arrow: cannot be read as an Arrow file \({type(error).__name__}: "
    with pytest.raises(UserError, match=said), reading("a.arrow", "an Arrow file", UserError):
        raise error


def test_an_error_for_people_passes_through_as_it_is() -> None:
    with pytest.raises(SourceError, match=r"^mine$"), reading("a", "b", UserError):
        raise SourceError("mine")


def test_whatever_a_plugins_reader_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.abc").write_text("x")

    def broken(group: str, name: str) -> object:
        return lambda file, asked: iter([{}["no such key"]])

    monkeypatch.setattr(plugins, "load", broken)
    with pytest.raises(SourceError, match=r"x\.abc: cannot be read as abc \(KeyError"):
        read(tmp_path / "x.abc", "abc")


def test_a_subset_of_no_bytes_or_of_an_archive_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "many.npz", a=np.zeros(1))
    for name in ("empty.npy", "many.npz"):
        with pytest.raises(SourceError, match=name):
            UidSubset(tmp_path / name)


@pytest.mark.parametrize("sizes", [["12"], [-1], [1.5], [None, None]])
def test_a_shard_whose_column_sizes_are_none_is_refused(tmp_path: Path, sizes: list[object]) -> None:
    head = json.dumps({"column_names": ["text"], "column_encodings": ["str"], "column_sizes": sizes}).encode()
    start = 4 + 8 + len(head)
    (tmp_path / "x.mds").write_bytes(struct.pack("<3I", 1, start, start + 5) + head + b"\1\0\0\0a")
    with pytest.raises(SourceError, match=r"x\.mds: cannot be read as an MDS shard"):
        read(tmp_path / "x.mds", "text")

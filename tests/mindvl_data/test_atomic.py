"""Files and folders that appear whole, or not at all, also where two write the same one."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindvl_data.atomic import PARTIAL, partial_of, publish, whole


def half_written(folder: Path) -> None:
    folder.mkdir()
    (folder / "c").write_text("half")
    raise OSError("no disk")


def test_nothing_is_there_before_the_end_and_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole(path) as partial:
        partial.write_text("b")
        assert not path.exists()
    assert path.read_text() == "b"
    with pytest.raises(OSError, match="disk"), whole(path) as partial:
        half_written(partial)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "b"


def test_of_two_who_write_the_same_folder_neither_fails_and_one_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole(path) as late:
        late.mkdir()
        (late / "c").write_text("same")
        early = tmp_path / "other.partial"
        early.mkdir()
        (early / "c").write_text("same")
        publish(early, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (path / "c").read_text() == "same"


def test_two_processes_write_under_names_of_their_own(tmp_path: Path) -> None:
    code = (
        f"import pathlib; from mindvl_data.atomic import partial_of; print(partial_of(pathlib.Path({str(tmp_path)!r})))"
    )
    other = Path(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
    mine = partial_of(tmp_path)
    assert mine != other
    assert mine == partial_of(tmp_path)
    assert mine.match(PARTIAL)
    assert other.match(PARTIAL)

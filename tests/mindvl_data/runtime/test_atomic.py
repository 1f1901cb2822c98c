"""Files that are trusted later: whole or not there, and found out when they are not what was written."""

import ast
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.runtime import atomic

ROOT = Path(__file__).parent.parent.parent.parent


def write(path: Path, data: bytes = b"0123456789") -> Path:
    with atomic.sealed(path) as partial:
        partial.write_bytes(data)
    return path


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_an_error_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic.replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_an_earlier_process_left_half_written_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / f"folder{atomic.PARTIAL}").mkdir()
    (tmp_path / f"folder{atomic.PARTIAL}" / "stale").touch()
    with atomic.sealed(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "a").write_bytes(b"a")
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["a"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic.sealed(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / name).write_bytes(b"x")
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["b"]
    assert atomic.is_whole(tmp_path / "folder")


@given(data=st.binary(min_size=1, max_size=64), where=st.data())
def test_any_cut_or_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("sealed") / "file", data)
    assert atomic.is_whole(path)
    assert atomic.checked(path) == path
    cut = where.draw(st.integers(0, len(data) - 1))
    path.write_bytes(data[:cut])
    assert not atomic.is_whole(path)
    with pytest.raises(atomic.DamagedFileError):
        atomic.checked(path)
    bit = where.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    assert atomic.is_whole(path)
    with pytest.raises(atomic.DamagedFileError, match="not as it was written"):
        atomic.checked(path)


@pytest.mark.parametrize("seal", [b"", b"{", b"[]", b'{"files": {"": "x"}, "beside": []}', b"\xff"])
def test_a_damaged_seal_seals_nothing(tmp_path: Path, seal: bytes) -> None:
    path = write(tmp_path / "file")
    path.with_name(path.name + atomic.SEAL).write_bytes(seal)
    assert not atomic.is_whole(path)
    with pytest.raises(atomic.DamagedFileError):
        atomic.checked(path)


def test_a_file_is_whole_only_with_what_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    other = write(tmp_path / "media" / "other")
    with atomic.sealed(tmp_path / "file", [other]) as partial:
        partial.touch()
    assert atomic.is_whole(tmp_path / "file")
    atomic.discard(other)
    assert not atomic.is_whole(tmp_path / "file")


def test_only_the_files_about_to_be_used_are_read(tmp_path: Path) -> None:
    with atomic.sealed(tmp_path / "folder") as partial:
        partial.mkdir()
        for name in ("a", "b"):
            (partial / name).write_bytes(b"x")
    (tmp_path / "folder" / "b").write_bytes(b"y")
    atomic.checked(tmp_path / "folder", ["a"])
    with pytest.raises(atomic.DamagedFileError):
        atomic.checked(tmp_path / "folder")


def test_the_error_comes_out_of_a_worker_with_its_path(tmp_path: Path) -> None:
    error = pickle.loads(pickle.dumps(atomic.DamagedFileError(tmp_path / "x")))
    assert error.path == tmp_path / "x"


# Calls that put a file under its name, or fill one, and the modules of both packages that may make them.
WRITING = {
    "rename",
    "replace",
    "write_text",
    "write_bytes",
    "write_parquet",
    "write_table",
    "new_file",
    "ParquetWriter",
}
BELOW_THE_RUNTIME = {
    # Known by their hash in the manifest or by their name, and checked against that by every reader.
    "mindvl_data/manifest/document.py",
    "mindvl_data/manifest/reading.py",
    "mindvl_data/shards/cache.py",
    "mindvl_data/shards/writing.py",
}


def _is_path(call: ast.Call) -> bool:
    """Whether this rename or replace is one of a path: strings and dataclasses take other arguments, columns a name."""
    return len(call.args) == 1 and not call.keywords and "column" not in ast.unparse(call.args[0])


def written_by(path: Path) -> set[str]:
    """The names of calls that write, outside a block of `replacing` or `sealed`."""
    found: set[str] = set()

    def visit(node: ast.AST, safe: bool) -> None:
        if isinstance(node, ast.With):
            safe = safe or any(
                "atomic." in ast.unparse(item) or "new_folder(" in ast.unparse(item) for item in node.items
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not safe:
            on_path = node.func.attr not in ("replace", "rename") or _is_path(node)
            owner = ast.unparse(node.func.value)
            if node.func.attr in WRITING and on_path and owner not in ("atomic", "dataclasses"):
                found.add(f"{path.relative_to(ROOT)}: {node.func.attr}")
        for child in ast.iter_child_nodes(node):
            visit(child, safe)

    visit(ast.parse(path.read_text()), False)
    return found


# What fills a folder or file that its caller makes appear, and what has its own way to do just that.
OTHERWISE = BELOW_THE_RUNTIME | {
    "mindvl_data/exports/hub.py",
    "mindvl_data/exports/mds.py",
    "mindvl_data/exports/tars.py",
    "mindvl_data/exports/uids.py",
    "mindvl_data/pipeline/publish.py",
    "mindvl_data/runtime/atomic.py",
    "mindvl_data/steps/scan.py",
    "mindvl_data/steps/scores/joined.py",
    "mindvl_train/weights/checkpoint.py",
    "mindvl_train/weights/durable.py",
    "mindvl_train/weights/imported.py",
    "mindvl_train/weights/processing.py",
    "mindvl_train/weights/published/exporting.py",
    "mindvl_train/weights/published/processor.py",
    "mindvl_train/weights/tensor_files.py",
}


def test_every_place_that_writes_is_known() -> None:
    places = {place for package in ("mindvl_data", "mindvl_train") for place in (ROOT / package).rglob("*.py")}
    found = {written.split(":")[0] for path in places for written in written_by(path)}
    assert found == OTHERWISE, "write through runtime.atomic, or say here why not"

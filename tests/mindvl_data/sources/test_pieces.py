"""A file in pieces gives the records of a whole one: the same rows under the same numbers, wherever it is cut."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindvl_data.inspect.explain import stories
from mindvl_data.manifest import read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.sources import Asked, Record, pieces, webdataset
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.sources.text import read

CASES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = st.lists(
    st.builds(lambda text: json.dumps({"text": text}).encode(), st.text(max_size=20))
    | st.sampled_from([b"", b" ", b"[", b"{", b"null", b"\xef\xbb\xbf{}", b"\r"]),
    max_size=12,
)


def described(path: Path) -> SourceFile:
    return source_files((path.name,), (path.name,), None, path.parent, FingerprintCache())[0]


def in_pieces(file: SourceFile, monkeypatch: pytest.MonkeyPatch, size: int, chunk: int = 5) -> list[list[Record]]:
    monkeypatch.setattr(pieces, "PIECE_BYTES", size)
    monkeypatch.setattr(pieces, "CHUNK_BYTES", chunk)
    cuts = pieces.row_pieces(file)
    assert sum(piece.size for piece in cuts) == (file.size if cuts else 0)
    return [list(read(replace(file, piece=piece), Asked())) for piece in cuts]


@given(lines=LINES, bom=st.booleans(), size=st.integers(1, 60), chunk=st.integers(1, 40))
@CASES
def test_lines_in_pieces_are_the_lines_of_the_file(
    tmp_path: Path, lines: list[bytes], bom: bool, size: int, chunk: int
) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" * bom + b"\n".join(lines))
    file = described(tmp_path / "x.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        found = in_pieces(file, patch, size, chunk)
    whole = list(read(file, Asked()))
    assert [record for part in found for record in part] == (whole if file.size > size else [])


def test_lines_are_cut_where_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "abc"}\n' * 100)
    found = in_pieces(described(tmp_path / "x.jsonl"), monkeypatch, 160)
    assert [len(part) for part in found] == [11] * 9 + [1]


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_row_groups_in_pieces_are_the_rows_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    table = pa.table({"text": [f"text {number}" for number in range(100)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=rows)
    file = described(tmp_path / "x.parquet")
    found = in_pieces(file, monkeypatch, 200)
    assert [record for part in found for record in part] == list(read(file, Asked()))
    assert len(found) == 1 if rows == 100 else len(found) > 2


MEMBERS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["txt", "json", "x"]), st.integers(0, 1500)), max_size=30
)


@given(members=MEMBERS, damage=st.lists(st.integers(0, 60), max_size=2), cut=st.integers(0, 3000))
@CASES
def test_a_tar_in_pieces_has_the_samples_of_the_tar(
    tmp_path: Path, members: list[tuple[str, str, int]], damage: list[int], cut: int
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for key, suffix, size in members:
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    data = bytearray((tmp_path / "x.tar").read_bytes())
    for block in damage:
        data[block * 512 : block * 512 + 20] = b"?" * len(data[block * 512 : block * 512 + 20])
    (tmp_path / "x.tar").write_bytes(data[: len(data) - cut])
    file = described(tmp_path / "x.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", 300)
        cuts = pieces.tar_pieces(file)
    found = [record for cut in cuts for record in webdataset.read(replace(file, piece=cut), Asked())]
    assert len(cuts) == min(8, file.size // 1200) or not cuts
    assert sum(piece.size for piece in cuts) == (file.size if cuts else 0)
    assert found == (list(webdataset.read(file, Asked())) if cuts else [])


def test_what_cannot_be_cut_is_read_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{"text": "abc"}] * 100
    for name in ("x.json", "x.jsonl.gz"):
        (tmp_path / name).write_text(json.dumps(rows))
        assert in_pieces(described(tmp_path / name), monkeypatch, 100) == []


# First and last keys of the quickstart's files.
SPREAD = ("000000000", "000010074", "0", "39", "60", "99")


def placed(story: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on pieces: all but the names of the build's own files."""
    images = [image for image in story["images"] if not image["uri"].startswith("build:")]
    return {**story["facts"], "images": images, "dropped": story["dropped"], "draws": story["draws"]}


def test_a_build_in_pieces_is_the_same_and_adds_up(
    recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_recipe(recipe_folder / "recipe.yaml")
    manifests, told, totals = [], [], dict[str, set[int]]()
    for size in (pieces.PIECE_BYTES, 2000):
        monkeypatch.setattr(pieces, "PIECE_BYTES", size)
        out = tmp_path / str(size)
        report = build(loaded, out, progress=lambda step, _, total, note="": totals.setdefault(step, set()).add(total))
        manifests.append({p.relative_to(out): p.read_bytes() for p in sorted(out.glob("**/manifest.json"))})
        told.append([placed(story) for key in SPREAD for story in stories(read_manifest(out / "sft-4096"), key)])
        assert not build(loaded, out).work
    assert report.work["split"]
    assert report.work["scan"] > len(yaml.safe_load((recipe_folder / "recipe.yaml").read_text())["sources"])
    assert manifests[0] == manifests[1]
    assert manifests[0]
    assert told[0] == told[1]
    assert {story["source"] for story in told[0]} == {"captions", "vqa", "documents", "text"}
    data = recipe_folder / "data"
    read_through = [
        *data.glob("captions-*.tar"),
        data / "vqa.parquet",
        data / "text.jsonl",
        *data.glob("documents/*.json"),
    ]
    assert totals["scan"] == {sum(path.stat().st_size for path in read_through)}

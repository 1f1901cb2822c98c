"""Referenced media: a shard leads only where its manifest's sources are, and only `${VAR}` is special."""

from pathlib import Path

import pytest

from mindvl_data.expanded import expand
from mindvl_data.media import Access, MediaError, MediaReader, fixed_folder, source_roots


@pytest.fixture
def reader(tmp_path: Path) -> MediaReader:
    for name in ("recipe/data/a$HOME::b.png", "recipe/secret.txt", "build/media/x.bin", "build/local.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0123456789")
    return MediaReader(tmp_path / "build", Access(tmp_path / "recipe", ("data/",)))


def test_ranges_of_sources_and_of_the_builds_own_media_are_read(reader: MediaReader) -> None:
    assert reader.read("data/a$HOME::b.png", 2, 3, None) == b"234"
    assert reader.read("build:media/x.bin", 8, 2, None) == b"89"


@pytest.mark.parametrize(
    "uri",
    [
        "secret.txt",
        "data/../secret.txt",
        "/etc/passwd",
        "../recipe/secret.txt",
        "build:local.json",
        "build:media/../local.json",
        "memory://${HOME}/x",
        "file:///etc/passwd",
    ],
)
def test_a_shard_leads_nowhere_else(reader: MediaReader, uri: str) -> None:
    with pytest.raises(MediaError, match=r"lies in no folder|is no file of the build"):
        reader.read(uri, 0, 1, None)


def test_a_root_at_the_recipe_itself_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"x")
    reader = MediaReader(tmp_path, Access(tmp_path, tuple(source_roots({"a": {"path": "x.jsonl"}}))))
    assert reader.read("x.jsonl", 0, 1, None) == b"x"
    for uri in ("/etc/passwd", "memory://a/b"):
        with pytest.raises(MediaError, match="lies in no folder"):
            reader.read(uri, 0, 1, None)


@pytest.mark.parametrize(("size", "sha256"), [(11, None), (3, b"\0" * 32)])
def test_what_is_not_what_it_was_is_refused(reader: MediaReader, size: int, sha256: bytes | None) -> None:
    with pytest.raises(MediaError, match="changed since it was scanned"):
        reader.read("build:media/x.bin", 0, size, sha256)


def test_the_fixed_folder_of_a_pattern() -> None:
    assert fixed_folder("${A}/b/c-{0..3}.tar") == "${A}/b/"
    assert fixed_folder("a/*/c.tar") == "a/"
    assert fixed_folder("c.tar") == ""
    assert fixed_folder("s3://bucket/x.tar") == "s3://bucket/"


def test_only_named_variables_in_braces_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "1")
    assert expand("${A}-$A-${NONE}") == "1-$A-${NONE}"

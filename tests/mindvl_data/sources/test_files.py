"""The files of a source: patterns, names in outputs, fingerprints."""

from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from mindvl_data.sources import SourceError, Unusable
from mindvl_data.sources.braces import braces
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from mindvl_data.sources.fingerprint import MISSING, Listings, fingerprint


def found(folder: Path, pattern: str, shown: str | None = None) -> list[SourceFile]:
    return source_files((pattern,), (shown or pattern,), None, folder, FingerprintCache(folder / "cache.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/x-1.tar", "a/x-0.tar", "b/x-0.tar", "b/other.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_globs_are_sorted_and_paths_relative_to_the_folder_before_the_wildcard(folder: Path) -> None:
    files = found(folder, "*/x-*.tar")
    assert [file.path for file in files] == ["a/x-0.tar", "a/x-1.tar", "b/x-0.tar"]
    assert [file.uri for file in files] == ["a/x-0.tar", "a/x-1.tar", "b/x-0.tar"]
    assert [file.path for file in found(folder, "a/x-*.tar")] == ["x-0.tar", "x-1.tar"]
    assert [file.uri for file in found(folder, "a/x-*.tar")] == ["a/x-0.tar", "a/x-1.tar"]


def test_braces_name_files_apart_and_each_must_exist(folder: Path) -> None:
    assert [file.path for file in found(folder, "{a,b}/x-0.tar")] == ["a/x-0.tar", "b/x-0.tar"]
    assert [file.path for file in found(folder, "a/x-{0..1}.tar")] == ["x-0.tar", "x-1.tar"]
    with pytest.raises(SourceError, match=r"a/x-2\.tar: no such file"):
        found(folder, "a/x-{0..2}.tar")
    for pattern in ("{0..99999999}.tar", "{0..9999}{0..9999}", "{0.." + "9" * 5000 + "}"):
        with pytest.raises(SourceError, match="its braces make more than 10,000,000 names"):
            next(braces(pattern))
    assert list(braces("{00..02}-{a,b}")) == ["00-a", "00-b", "01-a", "01-b", "02-a", "02-b"]


def test_a_pattern_does_not_match_what_is_hidden_unless_it_says_the_dot(folder: Path) -> None:
    for name in (".ipynb_checkpoints/x-0.tar", "a/._x-0.tar", "a/.deep/x-9.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert [file.path for file in found(folder, "**/x-*.tar")] == ["a/x-0.tar", "a/x-1.tar", "b/x-0.tar"]
    assert [file.path for file in found(folder, "a/*.tar")] == ["x-0.tar", "x-1.tar"]
    assert [file.path for file in found(folder, "a/._*.tar")] == ["._x-0.tar"]
    assert [file.path for file in found(folder, ".ipynb*/*.tar")] == [".ipynb_checkpoints/x-0.tar"]


def test_what_energon_excludes_is_whole_tars_or_samples(folder: Path) -> None:
    (folder / ".nv-meta").mkdir()
    excluded = "[b/other.tar, a/x-0.tar/k1, 'a/x-{0,1}.tar/sub/k2']"
    parts = "split_parts: {train: ['a/x-{0..1}.tar', b/other.tar]}"
    (folder / ".nv-meta/split.yaml").write_text(f"{parts}\nexclude: {excluded}\n")
    files = found(folder.parent, folder.name)
    assert {file.path: file.excluded for file in files} == {
        f"{folder.name}/a/x-0.tar": ("k1", "sub/k2"),
        f"{folder.name}/a/x-1.tar": ("sub/k2",),
    }


@pytest.mark.parametrize(
    ("pattern", "words"), [("none.tar", "no such file"), ("c/*.tar", "no file matches"), ("a", "no such")]
)
def test_what_is_not_there_is_named(folder: Path, pattern: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        found(folder, pattern)


def test_the_value_of_a_variable_is_in_no_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "topsecret").mkdir()
    (folder / "topsecret" / "y-topsecret.tar").write_text("")
    monkeypatch.setenv("WHERE", "topsecret")
    (file,) = found(folder, "topsecret/y-topsecret.tar", "${WHERE}/y-${WHERE}.tar")
    assert (file.uri, file.path) == ("${WHERE}/y-${WHERE}.tar", "y-${WHERE}.tar")
    assert file.image_uri == "${WHERE}"


def test_a_name_that_happens_to_hold_a_variables_value_stays_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "data-0.tar").write_text("")
    monkeypatch.setenv("D", "data")
    (file,) = found(folder, "data/*.tar", "${D}/*.tar")
    assert (file.uri, file.path) == ("${D}/data-0.tar", "data-0.tar")


def test_patterns_of_one_source_share_one_root(folder: Path) -> None:
    names = ("a/x-0.tar", "b/x-0.tar")
    files = source_files(names, names, None, folder, FingerprintCache())
    assert [file.path for file in files] == ["a/x-0.tar", "b/x-0.tar"]


def test_a_store_that_nothing_can_read_is_named(folder: Path) -> None:
    with pytest.raises(SourceError, match="nowhere://"):
        found(folder, "nowhere://x/y.tar")


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    fs, path = LocalFileSystem(), tmp_path / "big"

    def of(data: bytes) -> str:
        path.write_bytes(data)
        return fingerprint(fs, str(path), fs.info(str(path)))

    assert of(b"a").startswith("sha256:")
    assert of(b"a") != of(b"b")
    big = bytearray(20 << 20)
    first = of(bytes(big))
    big[-1] = 1
    assert first.startswith("sampled:")
    assert of(bytes(big)) != first


def test_an_unchanged_file_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again() -> list[str]:
        cache = FingerprintCache(folder / "cache.json")
        files = source_files(("a/x-*.tar",), ("a/x-*.tar",), None, folder, cache)
        cache.save()
        return [file.fingerprint for file in files]

    first = again()
    monkeypatch.setattr("mindvl_data.sources.fingerprint.fingerprint", lambda *_: "read")
    assert again() == first
    (folder / "a" / "x-0.tar").write_text("changed")
    assert again() == ["read", first[1]]


class NoListing(MemoryFileSystem):  # type: ignore[misc]
    """A store whose credentials may read and not list."""

    def ls(self, path: str, detail: bool = True, **more: object) -> list[object]:
        raise PermissionError("listing is denied")


def test_a_store_that_cannot_be_listed_is_asked_for_each_image() -> None:
    fs = NoListing()
    fs.pipe_file("/images-of-no-listing/a.png", b"one")
    listings = Listings()
    seen = listings.image(fs, "/images-of-no-listing/a.png")
    assert (seen.size, listings.image(fs, "/images-of-no-listing/b.png")) == (3, MISSING)
    fs.pipe_file("/images-of-no-listing/a.png", b"two")
    assert listings.image(fs, "/images-of-no-listing/a.png") != seen


@pytest.mark.parametrize("own", ["plain", "a [v2]", "b::c", "d{1,2}", "e*?"])
def test_a_name_that_exists_is_a_name_and_the_recipes_folder_no_pattern(tmp_path: Path, own: str) -> None:
    folder = tmp_path / own
    (folder / "in").mkdir(parents=True)
    for name in ("data[1].jsonl", "data1.jsonl", "x{a,b}.jsonl", "in/0.jsonl", "what?.jsonl"):
        (folder / name).write_text("{}\n")
    assert [file.uri for file in found(folder, "data[1].jsonl")] == ["data[1].jsonl"]
    assert [file.uri for file in found(folder, "x{a,b}.jsonl")] == ["x{a,b}.jsonl"]
    assert [file.uri for file in found(folder, "what?.jsonl")] == ["what?.jsonl"]
    assert [file.uri for file in found(folder, "in/*.jsonl")] == ["in/0.jsonl"]
    assert [file.uri for file in found(folder, "data[0-9].jsonl")] == ["data1.jsonl"]
    (file,) = found(folder, "in/0.jsonl")
    assert not file.changed()
    assert file.open().read() == b"{}\n"


def test_the_value_of_a_variable_is_a_name_where_something_is_found_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a [v2] {x}"
    folder.mkdir()
    (folder / "0.jsonl").write_text("")
    for value, pattern in ((str(folder), "${WHERE}/*.jsonl"), (f"{tmp_path}/*", "${WHERE}/0.jsonl")):
        monkeypatch.setenv("WHERE", value)
        (file,) = found(tmp_path / "elsewhere", pattern.replace("${WHERE}", value), pattern)
        assert file.place == str(folder / "0.jsonl")
        assert "v2" not in file.uri or "*" in value


def test_a_file_whose_name_is_not_utf8_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "d\udcff.jsonl").write_text("{}")
    with pytest.raises(SourceError, match=r"d\\udcff\.jsonl: its name is not UTF-8"):
        found(tmp_path, "*.jsonl")


def test_a_store_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/d\.jsonl: cannot be looked at \(ClientConnector"):
        found(tmp_path, "http://127.0.0.1:9/d.jsonl")


@pytest.mark.parametrize("name", ["%2e%2e/%2e%2e/x", "%252e%252e/x", "a/%2e%2e/%2e%2e/x", "..%5cx"])
def test_no_name_that_a_store_decodes_leads_out_of_its_root(name: str) -> None:
    root = "http://localhost:9/root/data"
    file = SourceFile(f"{root}/x.json", f"{root}/x.json", "x.json", 1, "", root, root)
    with pytest.raises(Unusable) as refused:
        file.image(name)
    assert refused.value.drop.reason == "outside_root"


def test_on_a_disk_such_a_name_is_a_name(folder: Path) -> None:
    (folder / "%2e%2e").mkdir()
    (folder / "%2e%2e" / "x").write_bytes(b"x")
    file = SourceFile(str(folder / "x.json"), "x.json", "x.json", 1, "", str(folder), ".")
    assert file.image_file("%2e%2e/x").size == 1

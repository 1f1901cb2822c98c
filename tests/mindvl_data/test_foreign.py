"""A data set that came from somebody else: whatever it says, its reader opens nothing that the user has not named."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mindvl_data.cli import app
from mindvl_data.manifest import ManifestError, read_manifest, write_manifest
from mindvl_data.note import LOCAL_FILE, BuilderNote, note_text, read_note
from mindvl_data.shards import cache_folder
from mindvl_data.stream import PackStream
from tests.listening import listening as listening_server
from tests.mindvl_data.packs import make_manifest, make_pack, png

SECRET = "s3cr3t-of-the-reader"
FORMATS = ("webdataset", "energon", "datasets", "mds", "uids")
COMMANDS = {
    "show": ("show",),
    "show --pack": ("show", "--pack", "0"),
    "verify": ("verify",),
    "explain": ("explain", "--pack", "0", "--token", "1"),
    "diff": ("diff",),
    **{f"export {name}": ("export", "--to", name) for name in FORMATS},
    **{f"export --packs {name}": ("export", "--packs", "--to", name) for name in FORMATS},
}


@pytest.fixture
def listening() -> Iterator[tuple[str, list[str]]]:
    with listening_server() as found:
        yield found


Hostile = Callable[..., Path]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hostile:
    """Makes a sealed set in `foreign/` whose one image lies at `uri`, and whose manifest names that as a source."""
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SECRET_KEY", SECRET)

    def make(uri: str, tokenizer: str = "t", source: str = "a", size: int = 100, note: str | None = None) -> Path:
        pack = make_pack(0)
        image = dataclasses.replace(pack.images[0], data=None, sha256=None, uri=uri, offset=0, size=size)
        pack = dataclasses.replace(pack, images=(image,), sources=("a", "b"))
        path = make_manifest(tmp_path / "foreign" / "set", [pack])
        data: dict[str, Any] = json.loads(path.read_text())
        folder = uri.rpartition("/")[0]
        data["recipe"] = {"sources": {source: {"path": f"{folder}/*.tar", "images": folder}}}
        data["tokenizer"]["name"] = tokenizer
        write_manifest(path.parent, data)
        if note is not None:
            (tmp_path / "foreign" / LOCAL_FILE).write_text(note)
        return path

    return make


def ran(name: str, manifest: Path, folder: Path) -> Result:
    command, *options = COMMANDS[name]
    arguments = [str(manifest)]
    arguments += [str(manifest)] if command == "diff" else []
    arguments += [str(folder)] if command == "export" else []
    return CliRunner().invoke(app, [command, *arguments, *options])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hostile_manifest_spends_no_secret(
    name: str, hostile: Hostile, listening: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, heard = listening
    note = json.dumps({"recipe_folder": "/", "recipe": "r.yaml", "roots": [f"{url}/"], "tokenizer": "${SECRET_KEY}/x"})
    manifest = hostile(f"{url}/${{SECRET_KEY}}/x.jpg", tokenizer="${SECRET_KEY}/x", note=note)
    result = ran(name, manifest, tmp_path / "out")
    assert not heard
    assert SECRET not in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists() or name == "export uids"


@pytest.mark.parametrize(
    ("uri", "size"),
    [
        ("/etc/passwd", 10),
        ("file:///etc/passwd", 10),
        ("etc/passwd", 10),
        ("../../../../../../../etc/passwd", 10),
        ("/proc/self/environ", 10),
        ("build:media/link", 10),
        ("build:media/whole", -1),
        ("build:media/whole", 1 << 40),
        ("build:media/pipe", 10),
    ],
)
def test_a_hostile_manifest_opens_no_file(hostile: Hostile, tmp_path: Path, uri: str, size: int) -> None:
    note = json.dumps({"recipe_folder": "/", "recipe": "r.yaml"})
    manifest = hostile(uri, size=size, note=note)
    media = tmp_path / "foreign" / "media"
    media.mkdir()
    (media / "link").symlink_to("/etc/passwd")
    (media / "whole").write_bytes(b"0123456789" * 10)
    os.mkfifo(media / "pipe")
    with pytest.raises(ManifestError):
        list(PackStream(manifest))


def test_what_the_user_names_is_opened(hostile: Hostile, listening: tuple[str, list[str]], tmp_path: Path) -> None:
    url, heard = listening
    size = len(png(0))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.jpg").write_bytes(png(0))
    manifest = hostile("images/x.jpg", size=size)
    with pytest.raises(ManifestError, match="--media-root"):
        list(PackStream(manifest))
    (pack,) = PackStream(manifest, media_root=tmp_path)
    assert pack.images[0].data == png(0)
    manifest = hostile(f"{url}/a/x.jpg", size=size)
    with pytest.raises(ManifestError, match="--allow"):
        list(PackStream(manifest, allow=[f"{url}/b", url[:-1]]))
    assert not heard
    (pack,) = PackStream(manifest, allow=[f"{url}/a"])
    assert pack.images[0].data == png(0)
    assert heard


def test_only_a_note_of_this_users_own_builds_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "cache"))
    note = BuilderNote("/data", "recipe.yaml", ["images/"], "qwen")
    (tmp_path / LOCAL_FILE).write_text(note_text(note))
    assert read_note(tmp_path) == note
    assert (cache_folder() / "builder.key").stat().st_mode & 0o777 == 0o600
    said = json.loads((tmp_path / LOCAL_FILE).read_text())
    for altered in ({**said, "recipe_folder": "/"}, {**said, "seal": ""}, {**said, "seal": 1}, [], {}):
        (tmp_path / LOCAL_FILE).write_text(json.dumps(altered))
        assert read_note(tmp_path) is None
    (tmp_path / LOCAL_FILE).write_text(json.dumps(said))
    monkeypatch.setenv("MINDVL_CACHE", str(tmp_path / "another"))
    assert read_note(tmp_path) is None


def test_a_source_is_no_path_out_of_an_export(hostile: Hostile, tmp_path: Path) -> None:
    manifest = hostile("x.jpg")
    pack = dataclasses.replace(make_pack(0), sources=("../../victim", "b"))
    path = make_manifest(tmp_path / "foreign" / "set", [pack], sources=["../../victim", "b"])
    for name in COMMANDS:
        if name.startswith("export"):
            result = ran(name, path, tmp_path / "out" / "export")
            assert result.exit_code == 2, name
    assert "names the source '../../victim'" in ran("verify", manifest, tmp_path).output
    assert not list(tmp_path.rglob("victim*"))
    data = json.loads(path.read_text())
    write_manifest(path.parent, {**data, "sources": {"../../victim": {"files": []}}})
    with pytest.raises(ManifestError, match="a plain name"):
        read_manifest(path)


def test_samples_tables_are_those_of_the_folder_alone(hostile: Hostile, tmp_path: Path) -> None:
    manifest = hostile("x.jpg")
    (tmp_path / "foreign" / "samples").mkdir()
    line = {"samples": "../../other.parquet", "rewritten": "x", "source": "a", "file": "a", "scores": []}
    (tmp_path / "foreign" / "samples" / "index.json").write_text(json.dumps([line]))
    for name in ("explain", "export webdataset"):
        assert "is no file of its folder" in ran(name, manifest, tmp_path / "out").output.replace("\n", " ")

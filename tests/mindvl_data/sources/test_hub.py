"""Sources by a Hugging Face hub id and revision, against a server that answers as the hub's API does."""

import hashlib
import io
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mindvl_data.manifest import packs_of, read_manifest
from mindvl_data.pipeline import build
from mindvl_data.recipe import load_recipe
from mindvl_data.sources import SourceError
from mindvl_data.tokenise import load_tokeniser
from tests.conftest import QUICKSTART
from tests.mindvl_data.packs import png

REPO = "team/pictures"


def table(word: str) -> bytes:
    file = io.BytesIO()
    rows = [{"image": {"bytes": png(i), "path": None}, "caption": f"{word} {i}"} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


# Two revisions of one data set.
REVISIONS = {"v1": {"data/train-0.parquet": table("old")}, "v2": {"data/train-0.parquet": table("new")}}


class Hub(BaseHTTPRequestHandler):
    """The few requests of which reading a data set is made.

    token: which requests must bring, where there is one. fails_each: of so many requests the last is answered by 503.
    """

    token = ""
    fails_each = 0
    asked = 0

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        Hub.asked += 1
        if Hub.fails_each and Hub.asked % Hub.fails_each == 0:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_error(503)
            return False
        if Hub.token and self.headers.get("Authorization") != f"Bearer {Hub.token}":
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
            return False
        return True

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else urllib.parse.parse_qs(body)["paths"]
        revision = self.path.rsplit("/", 1)[-1]
        self._json([entry for entry in self._tree(revision) if entry["path"] in asked])

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        api, resolve = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/"
        if path.startswith(f"{api}/tree/"):
            revision, _, below = path.removeprefix(f"{api}/tree/").partition("/")
            recursive = "recursive=true" in self.path.lower()
            self._json([e for e in self._tree(revision) if _is_below(e["path"], below, recursive)])
        elif path == api or path.startswith(f"{api}/revision/"):
            revision = path.rsplit("/", 1)[-1]
            if "revision" in path and revision not in REVISIONS:
                self._json({"error": "Revision Not Found"}, 404, {"X-Error-Code": "RevisionNotFound"})
            else:
                self._json({"id": REPO, "sha": "a" * 40, "private": False, "tags": [], "siblings": []})
        elif path.startswith(resolve):
            revision, _, name = path.removeprefix(resolve).partition("/")
            self._file(REVISIONS[revision][name])
        else:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _tree(self, revision: str) -> list[dict[str, Any]]:
        files = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in REVISIONS[revision].items()
        ]
        return [{"type": "directory", "path": "data", "size": 0, "oid": "d" * 40}, *files]

    def _file(self, data: bytes) -> None:
        first, last = 0, len(data) - 1
        if wanted := self.headers.get("Range"):
            begin, end = wanted.removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or last), last)
        part = data[first : last + 1]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": "a" * 40, "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._send(part, 206 if wanted else 200, headers)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _is_below(path: str, folder: str, recursive: bool) -> bool:
    inside = path.removeprefix(f"{folder}/") if folder else path
    return (not folder or path.startswith(f"{folder}/")) and (recursive or "/" not in inside)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": endpoint, "skip_instance_cache": True, "token": False})
    yield endpoint
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("revision", "word"), [("v1", "old"), ("v2", "new")])
def test_a_hub_id_with_a_revision_is_that_revision(hub: str, tmp_path: Any, revision: str, word: str) -> None:
    is_built(tmp_path, revision, word)


def test_a_private_data_set_of_a_hub_that_fails_one_request_in_ten(
    hub: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "token", "hf_secret")
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub, "skip_instance_cache": True})
    with pytest.raises(SourceError, match=r"sources\.hub\.path: hf://datasets/team/pictures@v1"):
        is_built(tmp_path / "none", "v1", "old")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(Hub, "fails_each", 10)
    asked = Hub.asked
    for number in range(4):
        is_built(tmp_path / str(number), "v1", "old")
    assert Hub.asked > asked + 20
    assert not any(b"hf_secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def is_built(folder: Path, revision: str, word: str) -> None:
    """The data set of a revision builds, and its texts have the word."""
    folder.mkdir(exist_ok=True)
    recipe = {
        "name": "hub",
        "tokenizer": str(QUICKSTART / "tokenizer.json"),
        "sources": {
            "hub": {"format": "captions", "path": f"hf://datasets/{REPO}@{revision}/**/*.parquet", "kind": "caption"}
        },
        "stages": {"only": {"seq_len": 256, "budget": {"epochs": 1}, "mixture": {"hub": 1}}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    report = build(load_recipe(folder / "recipe.yaml"), folder / "out")
    manifest = read_manifest(report.out / "only-256")
    tokeniser = load_tokeniser("tokenizer.json", QUICKSTART)
    text = "".join(tokeniser.decode(pack.tokens.tolist()) for pack in packs_of(manifest))
    assert all(f"{word} {i}" in text for i in range(3))
    (file,) = manifest.data["sources"]["hub"]["files"]
    assert file["path"] == f"hf://datasets/{REPO}@{revision}/data/train-0.parquet"
    assert file["fingerprint"].startswith("etag:")
    assert sorted(image.data or b"" for pack in packs_of(manifest) for image in pack.images) == sorted(
        map(png, range(3))
    )
    assert not build(load_recipe(folder / "recipe.yaml"), folder / "out").work

"""Redirects of web servers stay on their host, for whoever reads: sources, images, sets."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mindvl_data.manifest import read_manifest
from mindvl_data.media import Access, MediaError, MediaReader
from mindvl_data.shards import Patience, StoreError
from mindvl_data.sources import Asked, SourceError, Unusable, messages
from mindvl_data.sources.files import FingerprintCache, SourceFile, source_files
from tests.mindvl_data.packs import png

ROWS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


class Server:
    """A web server of a few files; a file that is a function says where its name is redirected to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Callable[[], str]] = {}
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(None)

        def _answer(self, shown: bytes | None) -> None:
            server.asked.append(self.path)
            found = server.files.get(self.path)
            if found is None:
                return self.send_error(404)
            if callable(found):
                self.send_response(302)
                self.send_header("Location", found())
                self.send_header("Content-Length", "0")
                return self.end_headers()
            start, stop = 0, len(found)
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(stop, int(last) + 1)
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            self.wfile.write(found[start:stop] if shown is None else shown)
            return None

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    yield server
    http.shutdown()
    http.server_close()


@pytest.fixture
def host() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    """Another host, as a metadata service is: what lies there must never be asked for."""
    with serving() as server:
        server.files = {"/secret": png(1), "/rows.jsonl": ROWS}
        yield server


def found(url: str) -> SourceFile:
    return source_files((url,), (url,), None, Path("/"), FingerprintCache())[0]


def test_a_source_is_read_over_redirects_of_its_own_host_alone(host: Server, other: Server) -> None:
    host.files = {"/real.jsonl": ROWS, "/rows.jsonl": lambda: "/real.jsonl"}
    assert len(list(messages.read(found(f"{host.url}/rows.jsonl"), Asked()))) == 1
    host.files["/rows.jsonl"] = lambda: f"{other.url}/rows.jsonl"
    with pytest.raises(SourceError, match=rf"is redirected to {other.url}, which is another host"):
        found(f"{host.url}/rows.jsonl")
    assert other.asked == []


def test_a_redirect_after_the_first_look_is_refused_too(host: Server, other: Server) -> None:
    host.files = {"/rows.jsonl": ROWS}
    file = found(f"{host.url}/rows.jsonl")
    host.files["/rows.jsonl"] = lambda: f"{other.url}/rows.jsonl"
    with pytest.raises(SourceError, match="another host"):
        list(messages.read(file, Asked()))
    assert other.asked == []


def test_an_image_of_a_record_is_not_fetched_from_another_host(host: Server, other: Server) -> None:
    host.files = {"/data/rows.jsonl": ROWS, "/data/a.png": png(0), "/data/b.png": lambda: f"{other.url}/secret"}
    file = found(f"{host.url}/data/rows.jsonl")
    assert bytes(file.image("a.png")[0].data) == png(0)
    with pytest.raises((SourceError, Unusable)):
        file.image("b.png")
    assert other.asked == []
    before = list(host.asked)
    for name in ("%2e%2e/%2e%2e/x", "..%2fx", "%252e%252e/x", "a\\..\\..\\x"):
        with pytest.raises(Unusable, match="outside_root"):
            file.image(name)
    assert host.asked == before, "what leads out once decoded is not asked for"


def test_a_folder_that_lists_what_lies_outside_of_it_is_refused(host: Server) -> None:
    shard = {"raw_data": {"basename": "%2e%2e/other.mds"}, "zip_data": None}
    host.files = {"/set/index.json": json.dumps({"shards": [shard]}).encode(), "/other.mds": b"x"}
    from mindvl_data.shards import store_of
    from mindvl_data.sources.folders import data_files

    with pytest.raises(SourceError, match="leads out of the folder"):
        data_files(*store_of(f"{host.url}/set"))
    assert "/other.mds" not in host.asked


def test_a_set_and_its_images_are_not_read_from_another_host(host: Server, other: Server) -> None:
    host.files = {name: lambda: f"{other.url}/secret" for name in ("/set/manifest.json", "/set/a.png")}
    with pytest.raises(StoreError, match="another host"):
        read_manifest(f"{host.url}/set")
    access = Access(None, (f"{host.url}/set/",))
    with MediaReader("/nowhere", access, Patience(1, 0.0)) as reader, pytest.raises(MediaError, match="another host"):
        reader.read(f"{host.url}/set/a.png", 0, 4, None)
    assert other.asked == []

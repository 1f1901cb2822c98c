"""A server that must hear nothing, or notes what it heard."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.mindvl_data.packs import png


class Server(http.server.BaseHTTPRequestHandler):
    """Notes whatever it is asked for, and has it."""

    heard: list[str]

    def do_GET(self) -> None:
        self.heard.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png(0))

    do_HEAD = do_GET  # noqa: N815, the name that http.server calls

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """The URL of a server, and what it has heard."""
    heard: list[str] = []
    handler = type("Noting", (Server,), {"heard": heard})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
        server.shutdown()

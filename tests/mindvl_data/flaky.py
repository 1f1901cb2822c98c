"""A web server that gives files in ranges, and that can be told to fail, to fall silent or to lie."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# From (file name, first byte asked for, how often that was asked for) to what becomes of the answer.
Mood = Callable[[str, int, int], str]


@dataclass
class Store:
    """mood: "ok", "error", "silent" (no answer for a minute), "short" or "wrong" (one bit differs)."""

    folder: Path
    url: str = ""
    mood: Mood = lambda name, start, times: "ok"
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)


@contextmanager
def served(folder: Path) -> Iterator[Store]:
    store, ended = Store(folder), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_data=False)

        def do_GET(self) -> None:
            self._answer(with_data=True)

        def _answer(self, with_data: bool) -> None:
            path = store.folder / self.path.lstrip("/")
            if not path.is_file():
                return self.send_error(404)
            data, wanted = path.read_bytes(), self.headers.get("Range")
            start, stop = 0, len(data)
            if wanted:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, stop = int(first), int(last) + 1
            mood = "ok"
            if with_data:
                store.asked[path.name, start] += 1
                mood = store.mood(path.name, start, store.asked[path.name, start])
            if mood == "error":
                return self.send_error(503)
            if mood == "silent":
                ended.wait(60)
                return None
            piece = bytearray(data[start:stop])
            if mood == "wrong":
                piece[0] ^= 1
            piece = piece[:-1] if mood == "short" else piece
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            if with_data:
                self.wfile.write(piece)
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield store
    ended.set()
    server.shutdown()
    server.server_close()

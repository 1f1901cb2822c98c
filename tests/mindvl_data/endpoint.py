"""A local chat endpoint in a process of its own, which answers by what a caption says: also nonsense, late, or not.

It notes every request in a file. What a caption asks for: `fail N` (status 500 the first N times), `busy` (429 once),
`stall` (no sign of life, once), `always stalls`, `refuse` (400), `drop` (closes the connection, once), `garbage` (not
JSON), `says TEXT` (that answer), else the number of its words.
"""

import json
import multiprocessing
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

KEY = "a-secret"
STALL = 4


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()
    notes: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.answer(401, b"who are you?")
        else:
            self.answer(200, json.dumps({"data": [{"id": "a-judge"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        prompt = content[-1]["text"]
        text = prompt.split("Text:", 1)[1].split("\n")[0].strip()
        with self.notes.open("a") as file:
            images = [part["image_url"]["url"][:22] for part in content[:-1]]
            note = {"text": text, "images": images, "key": self.headers["Authorization"], "prompt": prompt}
            file.write(json.dumps(note) + "\n")
        self.seen[prompt] += 1
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.answer(401, b"who are you?")
        elif not self.path.endswith("/v1/chat/completions"):
            self.answer(404, b"nothing here")
        elif not self.refused(text, self.seen[prompt]):
            said = re.search(r"says (.*)", text)
            self.complete(said[1] if said else str(len(text.split())))

    def refused(self, text: str, times: int) -> bool:
        failing = re.search(r"fail (\d+)", text)
        if failing and times <= int(failing[1]):
            self.answer(500, b"out of order")
        elif "busy" in text and times == 1:
            self.answer(429, b"later", {"Retry-After": "0"})
        elif "refuse" in text:
            self.answer(400, b"not such a picture")
        elif "garbage" in text:
            self.answer(200, b"<html>")
        elif "always stalls" in text or ("stall" in text and times == 1):
            time.sleep(STALL)
            self.close_connection = True
        elif "drop" in text and times == 1:
            self.close_connection = True
        else:
            return False
        return True

    def complete(self, text: str) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 7}
        self.answer(200, json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve(folder: Path) -> None:
    Handler.notes = folder / "requests.jsonl"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    (folder / "port.partial").write_text(str(server.server_port))
    (folder / "port.partial").rename(folder / "port")
    server.serve_forever()


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The endpoint's base address; its requests go to `folder/requests.jsonl`."""
    folder.mkdir(exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder,), daemon=True)
    process.start()
    try:
        while not (folder / "port").exists():
            time.sleep(0.02)
            if not process.is_alive():
                sys.exit("the endpoint did not start")
        yield f"http://127.0.0.1:{(folder / 'port').read_text()}/v1"
    finally:
        process.kill()
        process.join()


def requests(folder: Path) -> list[dict]:
    path = folder / "requests.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

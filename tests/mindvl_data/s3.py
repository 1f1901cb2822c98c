"""A real S3 server on this machine, for the tests of what reads and writes object stores."""

import itertools
import json
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Silent(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@contextmanager
def s3_server(bucket: str, fails_each: int = 0) -> Iterator[Any]:
    """A server with an empty bucket, which fsspec's `s3://` leads to; yields boto3's client. So it does in processes
    that are started meanwhile.

    fails_each: of so many requests to the bucket the last gets no answer but 503.
    """
    app: App = DomainDispatcherApplication(create_backend_app)
    served = _failing(app, fails_each) if fails_each else app
    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=_Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    # Servers of one process share what they keep: an earlier test's objects are not this one's.
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    client.create_bucket(Bucket=bucket)
    with pytest.MonkeyPatch.context() as patch:
        options = {"endpoint_url": url, "key": "test", "secret": "test"}
        patch.setitem(fsspec.config.conf, "s3", options)
        patch.setenv("FSSPEC_S3", json.dumps(options))  # for processes that are started
        yield client
    server.shutdown()
    server.server_close()


def _failing(app: App, each: int) -> App:
    counted = itertools.count(1)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if next(counted) % each == 0:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    return answer

"""The file system of a URL. On the web a redirect stays on its host: another host, or another port of it, is refused.

Whoever owns the host of a set or a source could else have any address asked that this machine can reach, such as its
cloud's service of credentials.
"""

from __future__ import annotations

from typing import Any

import fsspec

WEB = ("http://", "https://")


class RedirectedError(PermissionError):
    """A redirect to another host; the message names both addresses."""


def store_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises ImportError and ValueError where there is none."""
    options = {"get_client": _client_that_stays} if url.startswith(WEB) else {}
    fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, str(path)


async def _client_that_stays(**options: Any) -> Any:
    """An `aiohttp.ClientSession`, as fsspec makes one."""
    from fsspec.implementations.http import aiohttp, get_client

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_stay)
    return await get_client(trace_configs=[trace], **options)


async def _stay(_: object, __: object, redirect: Any) -> None:
    """For an `aiohttp.TraceRequestRedirectParams`. Raises RedirectedError."""
    headers, here = redirect.response.headers, redirect.url
    there = here.join(type(here)(headers.get("Location") or headers.get("URI") or ""))
    if not _is_same(here, there):
        raise RedirectedError(
            f"{here} is redirected to {there.origin() if there.host else there}, which is another host and is not "
            "asked; name that address itself where you trust it (of a Hugging Face hub: hf://…)"
        )


def _is_same(here: Any, there: Any) -> bool:
    """Two of `yarl`'s URLs: one host and port; or from its plain port to its encrypted one."""
    if here.host != there.host:
        return False
    upgraded = (here.scheme, here.port, there.scheme, there.port) == ("http", 80, "https", 443)
    return upgraded or (here.scheme, here.port) == (there.scheme, there.port)

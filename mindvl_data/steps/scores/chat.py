"""The client of an OpenAI-compatible endpoint: one request for one answer, tried again while that may help.

Threads over the standard library's connections: a request takes seconds and the thread waits for all of them.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mindvl_data.expanded import masked
from mindvl_data.steps.scores import ScoreError

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
# What no later try will change for any sample.
CONFIGURED_WRONG = {401, 403, 404, 405}
WORTH_ANOTHER_TRY = {408, 409, 425, 429}
SHOWN = 200
# Seconds.
REACHED_WITHIN = 5.0


class Reply(NamedTuple):
    """What was said, and the tokens that it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class NoReply(Exception):  # noqa: N818 - not an error of the program
    """There is no answer for this sample. final: asking again would not change it."""

    def __init__(self, why: str, final: bool) -> None:
        super().__init__(why)
        self.why = why
        self.final = final


@dataclass
class Chat:
    """An endpoint. first_wait: seconds before the second try, twice as long before each further one."""

    url: str
    model: str
    api_key: str | None = field(repr=False)
    timeout: float
    retries: int
    temperature: float
    max_tokens: int
    first_wait: float = FIRST_WAIT
    _connections: threading.local = field(default_factory=threading.local, repr=False)

    def ask(self, messages: list[dict[str, Any]]) -> Reply:
        """The answer to these messages. Raises NoReply, and ScoreError where the endpoint is not what was said."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": messages,
                "temperature": self.temperature,
                "max_tokens": self.max_tokens,
            }
        ).encode()
        why = ""
        for attempt in range(self.retries + 1):
            wait = 0.0
            try:
                status, answer, wait = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                self._close()
                why = masked(f"{type(error).__name__}: {error}")
            else:
                if status == 200:
                    return _reply(answer)
                why = f"status {status}: {_shown(answer)}"
                self._refuse(status, why)
            if attempt < self.retries:
                # Spread out, so that what failed together does not come again together.
                backoff = min(LONGEST_WAIT, self.first_wait * 2**attempt) * random.uniform(0.5, 1)
                time.sleep(max(backoff, wait))
        raise NoReply(f"no answer after {self.retries + 1} tries: {why}", final=False)

    def _refuse(self, status: int, why: str) -> None:
        if status in CONFIGURED_WRONG:
            raise ScoreError(f"{self.url}: {why}; check endpoint, model and api_key")
        if status < 500 and status not in WORTH_ANOTHER_TRY:
            raise NoReply(why, final=True)

    def _post(self, body: bytes) -> tuple[int, bytes, float]:
        """Status, body, and the seconds after which the endpoint wants to be asked again."""
        place = urlsplit(self.url)
        connection = getattr(self._connections, "open", None)
        if connection is None:
            kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
            assert place.hostname is not None
            connection = self._connections.open = kind(place.hostname, place.port, timeout=self.timeout)
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        connection.request("POST", f"{place.path.rstrip('/')}/chat/completions", body, headers)
        response = connection.getresponse()
        answer = response.read()
        after = response.headers.get("Retry-After", "")
        return response.status, answer, min(LONGEST_WAIT, float(after)) if after.isdecimal() else 0.0

    def _close(self) -> None:
        connection = getattr(self._connections, "open", None)
        if connection is not None:
            connection.close()
            self._connections.open = None


def models_at(url: str, api_key: str | None, timeout: float = REACHED_WITHIN) -> list[str] | None:
    """The models that an endpoint lists; None from one that answers and has no such list. Raises ScoreError."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/models", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return [str(model["id"]) for model in json.load(response)["data"]]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ScoreError(f"{url}: status {error.code}: check api_key") from error
        return None
    except (OSError, http.client.HTTPException) as error:
        raise ScoreError(f"{url}: cannot be reached ({error}): start it, or correct `endpoint`") from error
    except (ValueError, KeyError, TypeError):
        return None


def _shown(answer: bytes) -> str:
    """The beginning of what an endpoint said; one that is wrong says what it was sent, keys included."""
    return masked(answer.decode(errors="replace"))[:SHOWN]


def _reply(answer: bytes) -> Reply:
    """Raises NoReply where the endpoint's own form is broken: what it said will not be read otherwise next time."""
    try:
        data = json.loads(answer)
        text = data["choices"][0]["message"]["content"]
        usage = data.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError("its content is no text")
        return Reply(masked(text), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise NoReply(f"not a chat completion: {_shown(answer)}", final=True) from error

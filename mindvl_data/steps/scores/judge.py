"""Scores by a model behind an OpenAI-compatible endpoint: what is asked, and what its answer says.

What cannot be read as the form that was asked for is a missing score with a reason, never a number.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from mindvl_data.recipe.judges import Endpoint, Metric, Questions
from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.chat import Chat, NoReply
from mindvl_data.steps.scores.samples import Asked, batches
from mindvl_data.vision import BadImage, read_header

Ask: TypeAlias = Callable[[Iterable[Asked]], Iterator[pl.DataFrame]]
# Answers that are kept at a time, and samples whose images are read at a time.
KEPT_TOGETHER = 64
# Of the answers, as in clip.py: raised when the same answer is read otherwise.
VERSION = 1
NUMBER = re.compile(r"\s*(?:score\s*:\s*)?(-?\d+(?:\.\d+)?)\s*(?:/\s*100)?\s*\.?\s*", re.IGNORECASE)
FENCED = re.compile(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", re.DOTALL)
TOKENS = {"prompt_tokens": pl.Int64(), "completion_tokens": pl.Int64()}
SAID = "said"


class Question(NamedTuple):
    """One sample: the key of its content, its text, its pictures."""

    key: bytes
    text: str
    images: Sequence[bytes]


def columns(name: str, questions: Questions) -> dict[str, pl.DataType]:
    """A column a metric, and why there is no value."""
    kinds: dict[str, pl.DataType] = {
        metric: pl.String() if how.labels else pl.Float64() for metric, how in questions.metrics.items()
    }
    return {**kinds, f"{name}_reason": pl.String()}


def answers(name: str, endpoint: Endpoint, questions: Questions, todo: Iterable[Asked]) -> Iterator[pl.DataFrame]:
    """Answers as they come, some at a time. Raises ScoreError when there are samples that none was to be had for."""
    chat = chat_of(endpoint)

    def judged(question: Question) -> dict[str, Any]:
        return _judged(name, chat, endpoint, questions, question)

    schema = {"key": pl.Binary(), **columns(name, questions), SAID: pl.String(), **TOKENS}
    for lines in gathered(endpoint, judged, todo, f"scores.{name}"):
        yield pl.DataFrame(lines, schema=schema, orient="row")


def chat_of(endpoint: Endpoint) -> Chat:
    e = endpoint
    return Chat(e.endpoint, e.model, e.api_key, e.timeout, e.retries, e.temperature, e.max_tokens)


def gathered(
    endpoint: Endpoint, answer: Callable[[Question], dict[str, Any]], todo: Iterable[Asked], where: str
) -> Iterator[list[dict[str, Any]]]:
    """`answer` of every sample, so many at once as the endpoint takes, in lists of some; who stalls holds up nobody.

    Raises ScoreError in the end, when every answer that was to be had is out, if a sample has none.
    """
    unanswered: list[NoReply] = []
    done: list[dict[str, Any]] = []
    waiting: set[Future[dict[str, Any]]] = set()
    threads = ThreadPoolExecutor(endpoint.concurrency)
    try:
        for question in _questions(todo, endpoint.images):
            waiting.add(threads.submit(answer, question))
            if len(waiting) >= 2 * endpoint.concurrency:
                waiting = _collect(waiting, done, unanswered)
            if len(done) >= KEPT_TOGETHER:
                yield done
                done = []
        while waiting:
            waiting = _collect(waiting, done, unanswered)
            if len(done) >= KEPT_TOGETHER:
                yield done
                done = []
    finally:
        threads.shutdown(cancel_futures=True)
    if done:
        yield done
    if unanswered:
        raise ScoreError(
            f"{where}: {len(unanswered)} samples have no answer, the last: {unanswered[-1].why}. The other answers are "
            "kept: run the same command again, or set `unanswered: missing`"
        )


def _collect(
    waiting: set[Future[dict[str, Any]]], done: list[dict[str, Any]], unanswered: list[NoReply]
) -> set[Future[dict[str, Any]]]:
    ended, rest = wait(waiting, return_when=FIRST_COMPLETED)
    for future in ended:
        try:
            done.append(future.result())
        except NoReply as error:
            unanswered.append(error)
    return rest


def _questions(todo: Iterable[Asked], images: bool) -> Iterator[Question]:
    for asked in todo:
        for batch in batches(asked, KEPT_TOGETHER, images):
            yield from map(Question, batch.keys.to_list(), batch.texts, batch.images)


def _judged(name: str, chat: Chat, endpoint: Endpoint, questions: Questions, asked: Question) -> dict[str, Any]:
    """One sample's line: its values, or why there are none."""
    line: dict[str, Any] = {"key": asked.key, SAID: "", **dict.fromkeys(TOKENS, 0)}
    try:
        for metrics, prompt in _requests(questions):
            reply = chat.ask(messages(endpoint, prompt, asked))
            line["prompt_tokens"] += reply.prompt_tokens
            line["completion_tokens"] += reply.completion_tokens
            line[SAID] += reply.text + "\n"
            line |= read_number(reply.text, metrics) if questions.prompt is None else read_object(reply.text, metrics)
    except NoReply as error:
        if not error.final and endpoint.unanswered == "stop":
            raise
        line[f"{name}_reason"] = error.why
    except Unreadable as error:
        line[f"{name}_reason"] = str(error)
    if line.get(f"{name}_reason"):
        # All or nothing: half a judgement is none.
        line |= dict.fromkeys(questions.metrics)
    return line


def _requests(questions: Questions) -> list[tuple[Mapping[str, Metric], str]]:
    if questions.prompt is not None:
        return [(questions.metrics, questions.prompt)]
    return [({name: metric}, metric.prompt or "") for name, metric in questions.metrics.items()]


def messages(endpoint: Endpoint, prompt: str, asked: Question) -> list[dict[str, Any]]:
    """The request for one sample: its pictures as data URLs, the prompt with its text."""
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _url(data)}} for data in asked.images]
    content.append({"type": "text", "text": prompt.replace("{text}", asked.text)})
    system = [{"role": "system", "content": endpoint.system}] if endpoint.system else []
    return [*system, {"role": "user", "content": content}]


def _url(data: bytes) -> str:
    try:
        kind = read_header(data).format
    except BadImage as error:
        raise NoReply(f"{error.reason}: {error.detail}", final=True) from error
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ------------------------------------------------------------------------------------------ reading


class Unreadable(Exception):  # noqa: N818 - not an error of the program
    """An answer that is not of the form that was asked for; the message says how."""


def read_number(text: str, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The one metric from an answer that is a number and nothing else. Raises Unreadable."""
    ((name, metric),) = metrics.items()
    found = NUMBER.fullmatch(text)
    if not found:
        raise Unreadable(f"{name}: not a number: {text[:80]!r}")
    return {name: _in_range(name, float(found[1]), metric)}


def read_object(text: str, metrics: Mapping[str, Metric]) -> dict[str, float | str]:
    """Every metric from an answer that is one JSON object, in a fence or not. Raises Unreadable."""
    fenced = FENCED.fullmatch(text)
    try:
        data = json.loads(fenced[1] if fenced else text)
    except ValueError as error:
        raise Unreadable(f"not JSON: {text[:80]!r}") from error
    if not isinstance(data, dict):
        raise Unreadable(f"not a JSON object: {text[:80]!r}")
    return {name: _value(name, data.get(name), metric) for name, metric in metrics.items()}


def _value(name: str, value: object, metric: Metric) -> float | str:
    if metric.labels:
        said = value if metric.several and isinstance(value, list) and value else [value]
        if wrong := [one for one in said if one not in metric.labels]:
            raise Unreadable(f"{name}: {wrong[0]!r} is none of its labels")
        return ", ".join(label for label in metric.labels if label in said)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unreadable(f"{name}: {value!r} is no number")
    return _in_range(name, float(value), metric)


def _in_range(name: str, value: float, metric: Metric) -> float:
    if not metric.least <= value <= metric.most:
        raise Unreadable(f"{name}: {value:g} is not from {metric.least:g} to {metric.most:g}")
    return value

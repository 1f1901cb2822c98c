"""Chat templates in Jinja, rendered as transformers renders them, in a sandbox that reaches nothing outside itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import Environment, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from mindvl_data.runtime.bounded import BoundedEnvironment, Endless, bounded


class RenderError(Exception):
    """A conversation that a template refuses or cannot render; the message is the template's or Jinja's own."""


class EndlessError(RenderError):
    """A template that takes more than a conversation may."""


class Rendered(NamedTuple):
    """The text, and from where to where it lies in the template's `{% generation %}` blocks."""

    text: str
    generated: tuple[tuple[int, int], ...]


class _Tracked(NamedTuple):
    blocks: list[str]
    spans: list[tuple[int, int]]


_TRACKED: ContextVar[_Tracked] = ContextVar("tracked")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Any] | None = None,
    values: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = False,
    now: datetime | None = None,
) -> Rendered:
    """A conversation as text.

    Args:
        template: in Jinja.
        messages: of plain JSON values; a key whose value is None is left out.
        tools: schemas in JSON.
        values: other variables, for example `bos_token`.
        add_generation_prompt: whether the header of an answer stands at the end.
        now: what `strftime_now` tells; by default the time.

    Raises:
        RenderError: it is no template, or it refuses the conversation.
        EndlessError: it takes more than it may.
    """
    said = [_with_reasoning({key: value for key, value in each.items() if value is not None}) for each in messages]
    variables = {**(values or {}), "messages": said, "tools": tools, "documents": None}
    variables["add_generation_prompt"] = add_generation_prompt
    if now is not None:
        variables["strftime_now"] = now.strftime
    try:
        with bounded(), _tracked() as (blocks, spans):
            for block in _compiled(template).generate(**variables):
                blocks.append(block)
            return Rendered("".join(blocks), tuple(spans))
    except Endless as error:
        raise EndlessError(str(error)) from error
    except RecursionError as error:
        raise RenderError("the template or the conversation is nested too deeply") from error
    except MemoryError as error:
        raise RenderError("the template takes more memory than there is") from error
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise RenderError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


def check(template: str) -> None:
    """Raises RenderError where a text is no template."""
    try:
        _compiled(template)
    except (TemplateError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise RenderError(f"{error}, in line {line}" if line else str(error)) from error


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


# Names under which data and templates have what a model thought; transformers fills the first and the last from any.
REASONING = ("reasoning_content", "thinking", "reasoning")


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    found = next((message[name] for name in REASONING if name in message), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


@contextmanager
def _tracked() -> Iterator[_Tracked]:
    token = _TRACKED.set(tracked := _Tracked([], []))
    try:
        yield tracked
    finally:
        _TRACKED.reset(token)


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`: what the model is to say."""

    tags = {"generation"}  # noqa: RUF012 - as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Any) -> str:
        said: str = caller()
        tracked = _TRACKED.get()
        start = sum(map(len, tracked.blocks))
        tracked.spans.append((start, start + len(said)))
        return said


class _Dict:
    """`dict` without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` that holds no name of Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace holds no {name!r}: names do not begin with an underscore")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _environment() -> Environment:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment

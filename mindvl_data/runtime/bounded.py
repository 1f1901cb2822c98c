"""Jinja that ends: a template comes from whoever published a tokenizer, and may loop, repeat and double for ever.

Steps are counted and not seconds, so that a conversation is refused on every machine or on none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# Rounds of loops and calls of one rendering; a template that looks through all messages at each takes 1,000 messages.
MOST_STEPS = 1_000_000
# Characters that one rendering prints, and entries of one value that it puts together.
MOST_CHARS = 1 << 28
# Of a whole number.
MOST_BITS = 4096
# Filters under names that no template can say.
COUNTED, JOINED = " counted", " joined"


class Endless(TemplateError):  # noqa: N818 - it is no fault of the syntax
    """A rendering that takes more than it may."""


@dataclass
class _Left:
    steps: int = MOST_STEPS
    chars: int = MOST_CHARS


_LEFT: ContextVar[_Left] = ContextVar("left")


@contextmanager
def bounded() -> Iterator[None]:
    """Around one rendering, which raises Endless where it takes too much."""
    token = _LEFT.set(_Left())
    try:
        yield
    finally:
        _LEFT.reset(token)


def _take(steps: int) -> None:
    left = _LEFT.get()
    left.steps -= steps
    if left.steps < 0:
        raise Endless(f"the template takes more than {MOST_STEPS:,} steps")


def _check_size(size: int) -> None:
    if size > MOST_CHARS:
        raise Endless(f"the template makes a value of more than {MOST_CHARS:,} characters or entries")


# The context is asked for so that nothing is evaluated before there is one, when the template is compiled.
@pass_context
def _counted(_: Any, values: Iterable[Any]) -> Iterable[Any]:
    """What a loop goes over."""
    if not isinstance(values, Sized):
        return _one_by_one(values)
    _take(len(values))
    return values


def _one_by_one(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _take(1)
        yield value


@pass_context
def _joined(_: Any, values: Iterable[Any]) -> str:
    """`a ~ b`."""
    texts = [str(value) for value in values]
    _check_size(sum(map(len, texts)))
    return "".join(texts)


@pass_context
def _printed(_: Any, value: Any) -> Any:
    if isinstance(value, str):
        left = _LEFT.get()
        left.chars -= len(value)
        if left.chars < 0:
            raise Endless(f"the template prints more than {MOST_CHARS:,} characters")
    return value


class _Counting(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        node.iter = _filter(node.iter, COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802 - Jinja's name
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), JOINED)


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, for renderings within `bounded`."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_printed, **options)
        self.filters |= {COUNTED: _counted, JOINED: _joined}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _Counting().visit(super()._parse(source, name, filename)).set_environment(self)
        return parsed

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        _take(1)
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = {"+": 1, "*": right.bit_length(), "**": left.bit_length() * max(0, right)}[operator]
            if left.bit_length() + bits > MOST_BITS:
                raise Endless(f"the template makes a number of more than {MOST_BITS:,} bits")
        elif isinstance(left, Sized) and isinstance(right, Sized):
            _check_size(len(left) + len(right))
        elif isinstance(left, Sized) != isinstance(right, Sized):
            _check_size(len(left) * right if isinstance(left, Sized) else len(right) * left)
        return super().call_binop(context, operator, left, right)

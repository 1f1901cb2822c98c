"""Scores: columns that any filter can name, beside those of the samples table.

A score is a function and one line in a table. The function takes the inputs that its parameters name, for a batch
of n samples, and returns n values:

    def words(text: pl.Series) -> pl.Series

The line is an entry point `words = "your.module:words"` of the group `mindvl_data.scores`, ours or your package's. A
filter that says `words > 2` is all that it takes to have it computed. Parameters after a `*` are options that a
recipe may set (`scores: {lang: {by: function, function: language, options: {model: lid.176.bin}}}`); one annotated as a
Path is a file or folder relative to the recipe, and the score is computed anew when its content changes.

    text        pl.Series of String: all texts of a sample, prompts too, with newlines between them
    thumbnails  Thumbnails: every image decoded, grey, 64 by 64 levels (costs a decode of every image); of a clip four
                frames of it, two by two
    clips       Clips: what the headers say of the clips
    any column of the samples table but the nested ones, as pl.Series: width, height, pixels, image_bytes, …

A batch is any number of samples, none too; it is no part of what a score means.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError
from mindvl_data.runtime import plugins
from mindvl_data.tables.schema import FILTER_COLUMNS

__all__ = ["Clips", "ScoreError", "Thumbnails"]

GROUP = "mindvl_data.scores"
THUMBNAIL = 64


class ScoreError(UserError):
    """A score that cannot be had; the message says which, where and what to do."""


class Thumbnails(NamedTuple):
    """Every image of a batch, grey and small.

    levels: uint8 [images, 64, 64]; sound: bool [images], false where the image could not be decoded (its levels
    are zero); starts: int64 [n + 1], the images of each sample.
    """

    levels: NDArray[np.uint8]
    sound: NDArray[np.bool_]
    starts: NDArray[np.int64]


class Clips(NamedTuple):
    """Every clip of a batch, by its header.

    duration: float64 [clips], seconds. rate: float64 [clips], frames a second. frames: int64 [clips]. has_audio: bool
    [clips]. starts: int64 [n + 1], the clips of each sample.
    """

    duration: NDArray[np.float64]
    rate: NDArray[np.float64]
    frames: NDArray[np.int64]
    has_audio: NDArray[np.bool_]
    starts: NDArray[np.int64]


NO_CLIPS = Clips(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(1, np.int64))
INPUTS = frozenset({"text", "thumbnails", "clips", *FILTER_COLUMNS})
Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Wanted:
    """One column to compute: its name, the function's name in the table, and the options set for it."""

    column: str
    function: str
    options: tuple[tuple[str, Any], ...] = ()


def names() -> list[str]:
    """The scores that a filter may name without the recipe saying more."""
    return plugins.names(GROUP)


def function_of(wanted: Wanted) -> Function:
    """The function itself. Raises ScoreError where there is none, or it has not such options or inputs."""
    try:
        function: Function = plugins.load(GROUP, wanted.function)
    except plugins.PluginError as error:
        raise ScoreError(f"the score {wanted.column}: {error}") from error
    parameters = inspect.signature(function).parameters.values()
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted({name for name, _ in wanted.options} - options):
        known = ", ".join(sorted(options)) or "none"
        raise ScoreError(f"the score {wanted.column}: {wanted.function} has no option {unknown[0]!r}; it has: {known}")
    if strange := sorted(set(inputs_of(function)) - INPUTS):
        known = ", ".join(sorted(INPUTS))
        raise ScoreError(f"the score {wanted.function}: there is no input {strange[0]!r}; there are: {known}")
    return function


def inputs_of(function: Function) -> tuple[str, ...]:
    """What a score's function reads: the names of its parameters before the `*`."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)


def paths_of(function: Function) -> frozenset[str]:
    """The options of a score's function that are files or folders: those annotated as a Path."""
    hints = typing.get_type_hints(function)
    return frozenset(name for name, hint in hints.items() if hint is Path or Path in typing.get_args(hint))

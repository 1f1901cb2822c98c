"""What can be wrong before the first minute of work: names, tokenizer, every glob, scores, endpoints.

A build stops at the first fault; `check` goes on and says them all, with what it saw of each source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import util
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.filesize import decimal

from mindvl_data.errors import UserError
from mindvl_data.pipeline.making import file_of, joined_files, resolved
from mindvl_data.pipeline.prepare import check_marks
from mindvl_data.pipeline.scanning import files_of, reader_of, subset_of
from mindvl_data.pipeline.scoring import Scores
from mindvl_data.recipe import RecipeError
from mindvl_data.recipe.fields import nearest
from mindvl_data.recipe.scores import FunctionScore, JoinedScore, JudgeScore, Score
from mindvl_data.steps.filters import named_by
from mindvl_data.steps.scores import ScoreError, compute
from mindvl_data.steps.scores.chat import models_at
from mindvl_data.tokenise import TEMPLATES, TOKENIZER, ChatTemplate

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.recipe.judges import Endpoint

# What a score by a model or by clusters is computed with, and the extra that brings it.
PACKAGES = {"clip": ("open_clip", "clip"), "clusters": ("faiss", "cluster")}


class Finding(NamedTuple):
    """What was found at one place: a YAML path, or what it is about (`disk`, `memory`)."""

    where: str
    state: Literal["ok", "warning", "error"]
    said: str


class Doubt(str):
    """Something seen that may be wrong and stops nothing."""


Check = Callable[[], str]


def checks(run: Run) -> Iterator[tuple[str, Check]]:
    """Every place of a recipe with what looks at it: it says what it saw, or raises UserError."""
    yield "filters", partial(_expressions, run)
    yield "tokenizer", partial(_tokenizer, run)
    yield "chat_template", partial(_template, run)
    for section in ("sources", "evaluations"):
        for name in getattr(run.recipe, section):
            yield f"{section}.{name}", partial(_source, run, section, name)
    scores = Scores(run, [])
    needed: list[str] = []
    with suppress(RecipeError):  # said of the filters already
        needed = _needed(run, scores)
    for name in needed:
        yield f"scores.{name}", partial(_score, run, scores, name)
    for number, rule in enumerate(run.recipe.rewrite):
        yield f"rewrite.{number}", partial(_endpoint, run, f"rewrite.{number}", rule.name, rule)


def check_first(run: Run) -> None:
    """Before a build's first minute of work. Raises RecipeError, TokeniserError, SourceError or ScoreError."""
    for _, one in checks(run):
        one()


def found(where: str, check: Check) -> Finding:
    """What a check says, also where it is a fault."""
    try:
        said = check()
        return Finding(where, "warning" if isinstance(said, Doubt) else "ok", said)
    except (UserError, OSError) as error:
        return Finding(where, "error", str(error))


def _template(run: Run) -> str:
    name = run.recipe.chat_template
    if name not in (*TEMPLATES, TOKENIZER) and not (run.loaded.folder / name).is_file():
        known = nearest(name, sorted(TEMPLATES))
        raise RecipeError(f"chat_template: there is no template {name!r}, nor a file relative to the recipe{known}")
    # One of the table needs no tokenizer, which may be the other fault.
    if name in TEMPLATES or isinstance(run.template, ChatTemplate):
        return name
    return f"{name}: Jinja, its answers end with {run.template.end!r}"


def _expressions(run: Run) -> str:
    """Parses all that is written in SQL."""
    return f"{len(run.rules)} rules, {len(run.expressions)} further expressions"


def _tokenizer(run: Run) -> str:
    check_marks(run)
    return f"{run.recipe.tokenizer}, {run.tokeniser.vocab_size:,} ids"


def _source(run: Run, section: str, name: str) -> str:
    reader_of(run, section, name)
    files = files_of(run, section, name)
    subset_of(run, section, name)
    total = decimal(sum(file.size for file in files))
    return f"{getattr(run.recipe, section)[name].format}, {len(files):,} file{'s' * (len(files) != 1)}, {total}"


def _needed(run: Run, scores: Scores) -> list[str]:
    """The scores that rules name, and those whose columns these are made of."""
    needed, due = [], scores.score_of(named_by(run.naming))
    while due:
        needed += due
        made_of = {getattr(scores.score(name), "of", None) for name in due} - {None}
        due = [name for name in scores.score_of(map(str, made_of)) if name not in needed]
    return needed


def _score(run: Run, scores: Scores, name: str) -> str:
    score = scores.score(name)
    _check_package(name, score)
    for key, path in score.files().items():
        file_of(run, f"scores.{name}.{key}", path)
    return LOOKS[score.by](run, name, score) if score.by in LOOKS else f"by {score.by}"


def _function(run: Run, name: str, score: FunctionScore) -> str:
    compute.try_out(resolved(run, name, score)[0])
    return f"by {score.by}"


def _joined(run: Run, name: str, score: JoinedScore) -> str:
    return f"joined from {len(joined_files(run, name, score)):,} files"


def _judge(run: Run, name: str, score: JudgeScore) -> str:
    return _endpoint(run, f"scores.{name}", name, score)


def _check_package(name: str, score: Score) -> None:
    package, extra = PACKAGES.get(score.by, ("", ""))
    if package and util.find_spec(package) is None:
        raise ScoreError(f"scores.{name}: needs the extra [{extra}]: pip install 'mindvl[{extra}]'")


def _endpoint(run: Run, where: str, name: str, asked: Endpoint) -> str:
    """Raises ScoreError where nobody answers; a plan asks nobody, and what was answered once is not asked again."""
    if run.dry_run and not run.only_looks:
        return "not asked by a plan"
    if next((run.out / "scores").glob(f"{name}-*.answers/*.parquet"), None):
        return "answered before"
    try:
        models = models_at(asked.endpoint, asked.api_key)
    except ScoreError as error:
        raise ScoreError(f"{where}.endpoint: {error}") from error
    if models is not None and asked.model not in models:
        # A proxy may know more models than it lists.
        return Doubt(f"{asked.endpoint} lists no model {asked.model!r}{nearest(asked.model, models)}")
    return f"{asked.endpoint} answers" + (f", and has {asked.model}" if models else "")


# What else there is to look at, by the kind of a score.
LOOKS: Mapping[str, Callable[[Run, str, Any], str]] = {"function": _function, "joined": _joined, "judge": _judge}

"""The tables that a build, a plan and `show` print: their words are explained where they stand."""

import io

import pytest
from rich.console import Console, RenderableType

from mindvl_data.inspect import stages
from mindvl_data.pipeline import BuildReport


def printed(view: RenderableType) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(view)
    return [line for line in str(console.file.getvalue()).splitlines() if line.strip()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("table", "terms"),
    [(stages.overview, ("loss", "vision", "minimum", "fill")), (stages.mixtures, ("target", "actual", "epochs"))],
)
def test_columns_that_are_no_plain_words_are_explained_below(
    quickstart: BuildReport, table: object, terms: tuple[str, ...]
) -> None:
    assert callable(table)
    _, head, *_, last = printed(table([(one.name, one.data) for one in quickstart.stages]))
    for term in terms:
        assert f" {term} " in f"{head} "
        assert f"{term}: " in last

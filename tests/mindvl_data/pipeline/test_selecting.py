"""Which rules one pass applies: a top stands alone, and a costly column is looked at when what is before it is done."""

import pytest

from mindvl_data.pipeline.selecting import blocks
from mindvl_data.steps.filters import Rule


def rule(name: str, expression: str, top: float | None = None) -> Rule:
    return Rule(f"filters.{name}", name, expression, top, None, None, "error")


RULES = {
    "a": rule("a", "words > 2"),
    "b": rule("b", "blankness < 1"),
    "c": rule("c", "clip > 0.2"),
    "t": rule("t", "words", top=0.5),
}


@pytest.mark.parametrize(
    ("order", "passes"),
    [
        ("", []),
        ("ab", ["ab"]),
        ("atb", ["a", "t", "b"]),
        ("tt", ["t", "t"]),
        ("acb", ["a", "cb"]),
        ("cc", ["c", "c"]),
        ("ctab", ["c", "t", "ab"]),
    ],
)
def test_rules_of_one_pass(order: str, passes: list[str]) -> None:
    found = blocks([RULES[name] for name in order], {"clip"})
    assert ["".join(rule.name for rule in block) for block in found] == passes

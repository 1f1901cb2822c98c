"""YAML: what it says is what was meant, and nothing small costs much."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.runtime.yaml_text import YamlError, parse

TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_written_is_read(value: object) -> None:
    assert parse(yaml.safe_dump(value, allow_unicode=True)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' is given twice in the mapping that begins on line 2"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "line 3: `<<` is not supported"),
        ("? [a, b]\n: 1", "line 1: a key is a word, not a list or a mapping"),
        ("a: &x [*x]", "an alias within what it stands for has no end"),
        ("a: [", "expected the node content"),
        ("!!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("[" * 20_000, ""),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_aliases_of_aliases_are_refused_before_they_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(YamlError, match=r"its aliases stand for .* values"):
        parse("\n".join(lines))


def test_truths_are_true_and_false() -> None:
    assert parse("on: uid\nno: yes\na: true") == {"on": "uid", "no": "yes", "a": True}

"""What the command line changes of a YAML, and what the environment fills in."""

from typing import Any

import pytest

from mindvl_data.runtime.settings import OverrideError, override, resolve


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("a=2", {"a": 2, "list": [{"b": 1}, 5]}),
        ("new.deep={x: no}", {"a": 1, "list": [{"b": 1}, 5], "new": {"deep": {"x": "no"}}}),
        ("list.0.b=[1]", {"a": 1, "list": [{"b": [1]}, 5]}),
        ("list.1=a=b", {"a": 1, "list": [{"b": 1}, "a=b"]}),
    ],
)
def test_an_override_sets_a_key_or_an_item_of_a_list(text: str, changed: Any) -> None:
    data: dict[str, Any] = {"a": 1, "list": [{"b": 1}, 5]}
    override(data, text)
    assert data == changed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "--set a: expected path.to.key=value"),
        ("a.b=1", "--set a.b=1: 'a' is a value, not a mapping"),
        ("list.1.b=1", "--set list.1.b=1: '1' is a value, not a mapping"),
        ("list.2=1", "--set list.2=1: there is no item '2' in a list of 2"),
        ("list.first=1", "--set list.first=1: there is no item 'first' in a list of 2"),
        ("a=[", "--set a=[: the value is not YAML: "),
    ],
)
def test_an_override_that_leads_nowhere_is_named(text: str, said: str) -> None:
    with pytest.raises(OverrideError) as caught:
        override({"a": 1, "list": [{"b": 1}, 5]}, text)
    assert str(caught.value).startswith(said)


def test_variables_are_filled_in_and_those_that_are_not_set_named_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT", "/data")
    monkeypatch.delenv("GONE", raising=False)
    tree = {"a": ["${ROOT}/x", 1], "b": {"c": "${GONE}/${ROOT}", "d": "$ROOT"}, "e": "${GONE}"}
    values, problems = resolve(tree)
    assert values == {"a": ["/data/x", 1], "b": {"c": "${GONE}//data", "d": "$ROOT"}, "e": "${GONE}"}
    assert problems == [f"{path}: the environment variable GONE is not set" for path in ("b.c", "e")]

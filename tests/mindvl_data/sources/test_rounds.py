"""Tools, thoughts and weights as messages have them; which thoughts stay; a sample for every round."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.sources import Sample, Unusable
from mindvl_data.sources.messages import conversation
from mindvl_data.sources.rounds import shaped
from mindvl_data.steps.scan import Rules
from tests.mindvl_data.sources.scanned import read

CALL = {"id": "call_1", "type": "function", "function": {"name": "weigh", "arguments": '{"stone": 1}'}}
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "default": None}}}


def sample(*messages: dict[str, Any], **beside: Any) -> Sample:
    return conversation("7", {"messages": list(messages), **beside})


def said(role: str, content: Any, **beside: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **beside}


def fields(one: Sample) -> list[tuple[int, str, str | None, str | None]]:
    return [(part.turn, part.role, part.field, part.text) for part in one.parts]


def test_tools_calls_and_thoughts_are_fields_of_their_turn() -> None:
    found = sample(
        said("user", "How heavy?"),
        said("assistant", None, reasoning_content="I weigh it.", tool_calls=[CALL]),
        said("tool", "2 kg", tool_call_id="call_1", name="weigh"),
        said("assistant", "Two.", tool_calls=[]),
        tools=[TOOL],
    )
    assert fields(found) == [
        (0, "user", "tools", json.dumps([TOOL])),
        (0, "user", None, "How heavy?"),
        (1, "assistant", "reasoning_content", "I weigh it."),
        (1, "assistant", "tool_calls", json.dumps([CALL])),
        (2, "tool", "tool_call_id", "call_1"),
        (2, "tool", "name", "weigh"),
        (2, "tool", None, "2 kg"),
        (3, "assistant", None, "Two."),
    ]


def test_tools_and_calls_may_be_json_as_columns_hold_them() -> None:
    call = said("assistant", None, tool_calls=json.dumps([CALL]))
    assert fields(sample(call, tools=json.dumps([TOOL]))) == fields(
        sample(said("assistant", None, tool_calls=[CALL]), tools=[TOOL])
    )


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_a_thought_has_several_names(name: str) -> None:
    assert fields(sample(said("assistant", "b", **{name: "hm"})))[0] == (0, "assistant", "reasoning_content", "hm")


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (said("assistant", None, tool_calls=[{}]), "without the name of a function"),
        (said("assistant", None, tool_calls=[{"function": "f"}]), "without the name of a function"),
        (said("assistant", None, tool_calls="call"), "`tool_calls` of message 0 is no list"),
        (said("user", "x", tool_calls=[CALL]), "of the role 'user' and calls a tool"),
        (said("assistant", "x", reasoning_content=["hm"]), "`reasoning_content` of message 0 is no text"),
        (said("tool", "x", loss=True), "is what a tool gave, and is to be learnt"),
        (said("assistant", "x", weight=-1), "`weight` is -1, not a number"),
        (said("assistant", "x", weight=float("nan")), "`weight` is nan, not a number"),
        (said("assistant", "x", weight="1"), "`weight` is '1', not a number"),
        (said("assistant", "x", weight=0, loss=True), "`loss` and `weight` of a turn differ"),
    ],
)
def test_what_is_no_message_is_named(message: dict[str, Any], detail: str) -> None:
    with pytest.raises(Unusable, match="malformed_record") as error:
        sample(message)
    assert detail in str(error.value)


@pytest.mark.parametrize(
    ("weight", "loss", "expected"),
    [(1, None, None), (True, None, None), (0, False, None), (0.5, None, 0.5), (3, None, 3)],
)
def test_a_weight_of_zero_is_not_learnt_and_any_other_weighs(weight: Any, loss: Any, expected: Any) -> None:
    for role in ("user", "assistant"):
        (part,) = sample(said(role, "x", weight=weight)).parts
        assert (part.loss, part.weight) == (loss, expected)


# --- thoughts and rounds

CONVERSATION = [
    said("system", "s"),
    said("user", "one"),
    said("assistant", None, reasoning_content="r1", tool_calls=[CALL]),
    said("tool", "t"),
    said("assistant", "<think>\nr2\n</think>\n\na1"),
    said("user", "two"),
    said("assistant", "a2", reasoning_content="r3"),
]


def texts(one: Sample) -> list[str | None]:
    return [part.text for part in one.parts if part.field != "tool_calls"]


def test_which_thoughts_stay() -> None:
    one = sample(*CONVERSATION)
    kept, last, dropped = (shaped(one, rule, split=False)[0] for rule in ("keep", "last", "drop"))
    assert kept == one
    assert texts(last) == ["s", "one", "t", "a1", "two", "r3", "a2"]
    assert texts(dropped) == ["s", "one", "t", "a1", "two", "a2"]


def test_a_thought_is_only_what_begins_an_answer() -> None:
    messages = [
        said("user", "?"),
        said("assistant", "Write <think>x</think> so."),
        said("assistant", "hm</think>\nyes"),
    ]
    assert texts(shaped(sample(*messages), "drop", split=False)[0]) == ["?", "Write <think>x</think> so.", "yes"]


def test_a_sample_for_every_round_learns_its_round_alone() -> None:
    first, second = shaped(sample(*CONVERSATION), "keep", split=True)
    assert (first.key, second.key) == ("7:round1", "7:round2")
    assert texts(first) == ["s", "one", "r1", "t", "<think>\nr2\n</think>\n\na1"]
    assert texts(second) == texts(sample(*CONVERSATION))
    assert {part.loss for part in first.parts} == {None}
    assert [part.loss for part in second.parts if part.role == "assistant"] == [False, False, False, None, None]


def test_images_go_with_their_round() -> None:
    image = {"type": "image", "image": "1.png"}
    other = {"type": "image", "image": "2.png"}
    turns = [
        said("user", [image]),
        said("assistant", "a", reasoning="r"),
        said("user", [other]),
        said("assistant", "b"),
    ]
    first, second = shaped(sample(*turns), "keep", split=True)
    assert [len(one.images) for one in (first, second)] == [1, 2]


@pytest.mark.parametrize(
    "messages",
    [
        [said("user", "a"), said("assistant", "b"), said("user", "c"), said("assistant", "d")],
        [said("user", "a"), said("assistant", "<think>b</think>c")],
        [said("assistant", "b", reasoning_content="hm")],
    ],
    ids=["no thoughts", "one round", "no question"],
)
def test_a_conversation_of_which_nothing_is_forgotten_stays_one(messages: list[dict[str, Any]]) -> None:
    one = sample(*messages)
    assert shaped(one, "keep", split=True) == [one]


def test_the_scan_splits_and_names_the_samples(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"messages": CONVERSATION}))
    found = read(tmp_path / "m.jsonl", "messages", rules=Rules(thinking="last", split=True))
    assert found.keys == ["0:round1", "0:round2"]
    assert [part["text"] for part in found.kept[1]["parts"] if part["field"] == "reasoning_content"] == ["r3"]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns in any order, some with a thought, some that say that they are not learnt."""
    messages = []
    for number in range(draw(st.integers(1, 9))):
        role = draw(st.sampled_from(["user", "assistant", "assistant", "tool"]))
        thought = {"reasoning_content": f"r{number}"} if role == "assistant" and draw(st.booleans()) else {}
        loss = {"loss": False} if draw(st.integers(0, 3)) == 0 else {}
        messages.append(said(role, f"{role}{number}", **thought, **loss))
    return messages


@given(conversations())
def test_every_answer_is_learnt_once_behind_all_that_was_said_before_it(messages: list[dict[str, Any]]) -> None:
    whole = sample(*messages)
    samples = shaped(whole, "keep", split=True)
    expected = [part.text for part in whole.parts if part.role == "assistant" and part.loss is not False]
    found = [part.text for one in samples for part in one.parts if part.role == "assistant" and part.loss is not False]
    assert found == expected
    for one in samples:
        assert texts(one) == texts(whole)[: len(texts(one))]
    assert len({one.key for one in samples}) == len(samples)

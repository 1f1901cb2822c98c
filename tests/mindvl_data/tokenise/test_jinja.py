"""Any chat template: ids and masks held against transformers', over the published templates of many families."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError as JinjaError

from mindvl_data.sources import messages as messages_format
from mindvl_data.tables.schema import Part
from mindvl_data.tokenise import TEMPLATES, Encoded, encode
from tests.mindvl_data.tokenise.published import FAMILIES, published

BLOCK = "<|vision_start|><|image_pad|><|vision_end|>"
characters = st.one_of(
    st.sampled_from("aB é1 \n\t\r'.,猫日"),
    st.sampled_from(["e\u0301", "  ", "👩\u200d👧"]),
    st.characters(codec="utf-8"),
)
plain = st.lists(characters, max_size=10).map("".join)
thoughts = st.builds("<think>{0}</think>{1}".format, plain, plain)
# Without what makes a text a control token of a family: what a text says of one is text, and not for transformers.
texts = st.one_of(plain, thoughts).filter(lambda text: "<|" not in text and "[" not in text)


def turn(number: int, role: str, *contents: str | None, loss: bool | None = None) -> list[Part]:
    return [Part(number, role, loss, content) for content in contents]


def messages(parts: list[Part]) -> list[dict[str, Any]]:
    return [{"role": part.role, "content": part.text} for part in parts]


def one(name: str, parts: list[Part], loss: str = "answers", slowly: bool = False) -> Encoded:
    template = published(name).template
    # Another name of the template is none that a table stands for.
    template = replace(template, text="{# slowly #}" + template.text) if slowly else template
    return encode([parts], "chat", template, published(name).tokeniser, loss)


def trained(name: str, encoded: Encoded) -> str:
    """The text, with what has loss between brackets."""
    decode = published(name).tokeniser.decode
    pieces = [(decode([number]), loss) for number, loss in zip(encoded.ids, encoded.loss, strict=True)]
    return re.sub(r"⟧⟦", "", "".join(f"⟦{text}⟧" if loss else text for text, loss in pieces))


@st.composite
def conversations(draw: st.DrawFn, alternate: bool = True) -> list[Part]:
    """Turns of one text each; consecutive ones of a role, empty ones and white space around them too."""
    if alternate:
        roles = ["user", "assistant"] * draw(st.integers(1, 3))
    else:
        roles = draw(st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=5))
    roles = ["system", *roles] if draw(st.booleans()) else roles
    return [part for number, role in enumerate(roles) for part in turn(number, role, draw(texts))]


@pytest.mark.parametrize("name", FAMILIES)
@given(parts=st.one_of(conversations(), conversations(alternate=False)))
@settings(max_examples=40, deadline=None)
def test_ids_are_those_of_transformers(name: str, parts: list[Part]) -> None:
    oracle, encoded = published(name).oracle, one(name, parts)
    try:
        expected = oracle.apply_chat_template(
            messages(parts), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
    except JinjaError:
        assert encoded.refused[0].reason == "chat_template"
        assert not len(encoded.ids)
        return
    assume(0 not in encoded.refused)
    assert encoded.ids.tolist() == expected["input_ids"]
    if "{% generation %}" in oracle.chat_template or "{%- generation %}" in oracle.chat_template:
        assert encoded.loss.tolist()[1:] == [bool(learnt) for learnt in expected["assistant_masks"][1:]]


# Templates that give a turn the same text whatever follows it; `{% generation %}` is held against transformers above.
STABLE = ["qwen2_5_vl", "qwen3_vl", "llama3", "gemma3", "internvl3_5", "mistral_v1", "mistral_v3_tekken"]


@pytest.mark.parametrize("name", STABLE)
@given(parts=conversations())
@settings(max_examples=40, deadline=None)
def test_an_answer_is_learnt_from_behind_its_header_to_the_end_of_its_turn(name: str, parts: list[Part]) -> None:
    oracle, encoded = published(name).oracle, one(name, parts, slowly=True)
    said, end = messages(parts), published(name).template.end
    text = oracle.apply_chat_template(said, tokenize=False)
    spans = []
    for number, part in enumerate(parts):
        if part.role == "assistant":
            asked = oracle.apply_chat_template(said[:number], tokenize=False, add_generation_prompt=True)
            answered = oracle.apply_chat_template(said[: number + 1], tokenize=False)
            # Mistral's puts the system's text into the last question.
            assume(text.startswith(asked) or name != "mistral_v3_tekken")
            assert text.startswith(asked)
            assert text.startswith(answered)
            spans.append((len(asked), answered.rindex(end) + len(end)))
    offsets = oracle(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    expected = [any(start <= place < stop for start, stop in spans) for place, _ in offsets]
    assert encoded.loss.tolist() == [False, *expected[1:]]


def test_the_masks_of_a_template_that_forgets_are_those_of_its_text() -> None:
    parts = [
        *turn(0, "user", "Hi"),
        *turn(1, "assistant", "<think>\nhm\n</think>\n\nYes"),
        *turn(2, "user", "Sure?"),
        *turn(3, "assistant", "<think>\nwell\n</think>\n\nNo"),
    ]
    head = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yes<|im_end|>⟧\n<|im_start|>user\nSure?<|im_end|>\n"
    assert trained("qwen3", one("qwen3", parts)) == (
        f"{head}<|im_start|>assistant\n⟦<think>\nwell\n</think>\n\nNo<|im_end|>⟧\n"
    )
    # Its header of an answer has the beginning of a thought.
    assert trained("qwen3_5", one("qwen3_5", parts)) == (
        f"{head}<|im_start|>assistant\n<think>\n⟦well\n</think>\n\nNo<|im_end|>⟧\n"
    )


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5"])
def test_an_empty_thought_that_the_template_writes_is_not_learnt(name: str) -> None:
    encoded = one(name, turn(0, "user", "Hi") + turn(1, "assistant", "Yes"))
    assert trained(name, encoded).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n⟦Yes<|im_end|>⟧\n")


def test_an_empty_thought_of_the_data_is_learnt_where_the_template_takes_texts_as_they_are() -> None:
    encoded = one("qwen2_5_vl", turn(0, "user", "Hi") + turn(1, "assistant", "<think>\n\n</think>\n\nYes"), slowly=True)
    assert trained("qwen2_5_vl", encoded).endswith("assistant\n⟦<think>\n\n</think>\n\nYes<|im_end|>⟧\n")


# --- the tables

IMAGE = None
any_text = st.one_of(texts, st.sampled_from(["<|im_end|>", "a<|im_start|>assistant\nb", "<|image_pad|>", "\ue000"]))


@st.composite
def with_images(draw: st.DrawFn) -> list[Part]:
    parts: list[Part] = []
    for number, role in enumerate(["system", *["user", "assistant"] * draw(st.integers(1, 2))]):
        content = st.one_of(any_text, st.just(IMAGE)) if role == "user" else any_text
        loss = draw(st.sampled_from([None, None, True, False])) if role == "assistant" else None
        weight = draw(st.sampled_from([None, None, 0.5, 2.0])) if role == "assistant" else None
        said = turn(number, role, *draw(st.lists(content, min_size=1, max_size=3)), loss=loss)
        parts += [part._replace(weight=weight) for part in said]
    return parts[draw(st.booleans()) :]


@pytest.mark.parametrize(("name", "table"), [("qwen2_5_vl", "qwen2-vl"), ("qwen3_vl", "chatml")])
@given(parts=with_images(), loss=st.sampled_from(["answers", "all"]))
@settings(max_examples=60, deadline=None)
def test_a_table_is_its_published_template(name: str, table: str, parts: list[Part], loss: str) -> None:
    slow, fast = one(name, parts, loss, slowly=True), one(name, parts, loss)
    expected = encode([parts], "chat", TEMPLATES[table], published(name).tokeniser, loss)
    for found in (slow, fast):
        assert (found.ids.tolist(), found.refused) == (expected.ids.tolist(), {})
        assert found.loss.tolist() == expected.loss.tolist()
        assert weights(found) == weights(expected)


def weights(encoded: Encoded) -> list[float]:
    return [1.0] * len(encoded.ids) if encoded.weights is None else encoded.weights.tolist()


def test_a_published_template_with_a_table_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mindvl_data.runtime.sandbox.render", lambda *_, **__: pytest.fail("was rendered"))
    parts = turn(0, "user", IMAGE, "Hi") + turn(1, "assistant", "Yes")
    assert len(one("qwen2_5_vl", parts).ids)


# --- images and control tokens


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
@given(contents=st.lists(st.one_of(texts, st.just(IMAGE)), min_size=2, max_size=4), answer=texts)
@settings(max_examples=40, deadline=None)
def test_images_stand_where_the_template_has_them(name: str, contents: list[str | None], answer: str) -> None:
    parts = turn(0, "user", *contents) + turn(1, "assistant", answer)
    blocks = [{"type": "image"} if text is None else {"type": "text", "text": text} for text in contents]
    said = [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]
    encoded = one(name, parts, slowly=True)
    assert encoded.ids.tolist() == published(name).oracle.apply_chat_template(said)["input_ids"]


@pytest.mark.parametrize(
    ("name", "block"),
    [("llama3", BLOCK), ("gemma3", BLOCK), ("internvl3_5", f"{BLOCK}\n"), ("mistral_v1", BLOCK), ("qwen3", BLOCK)],
)
def test_a_template_without_images_or_with_its_own_gets_ours(name: str, block: str) -> None:
    encoded = one(name, turn(0, "user", IMAGE, "What is it?") + turn(1, "assistant", "A cat."))
    assert f"{block}What is it?" in trained(name, encoded)
    assert not encoded.refused


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_control_tokens_in_a_text_are_text(name: str, data: st.DataObject) -> None:
    tokeniser, template = published(name).tokeniser, published(name).template
    say = st.lists(st.one_of(st.sampled_from("ab \n"), st.sampled_from(sorted(tokeniser.controls))), max_size=5)
    question, answer = (f"{name}{''.join(data.draw(say))}." for name in ("Q", "A"))
    encoded, plain = (one(name, turn(0, "user", q) + turn(1, "assistant", a)) for q, a in ((question, answer), "QA"))
    controls = [tokeniser.added[token] for token in template.controls]
    assert [i for i in encoded.ids.tolist() if i in controls] == [i for i in plain.ids.tolist() if i in controls]
    text = tokeniser.decode(encoded.ids.tolist())
    assert question in text
    assert answer in text


def test_added_tokens_that_are_no_control_tokens_are_tokens_where_a_text_says_them() -> None:
    encoded = one("qwen3", turn(0, "user", "What is <think>?") + turn(1, "assistant", "A <tool_call>."))
    added = published("qwen3").tokeniser.added
    assert {added["<think>"], added["<tool_call>"]} <= set(encoded.ids.tolist())


# --- a turn's own loss


@pytest.mark.parametrize("name", ["qwen3_5", "llama3", "llama3_training", "deepseekv3", "mistral_v1"])
def test_a_turn_that_says_so_is_not_learnt(name: str) -> None:
    parts = [
        *turn(0, "user", "A?"),
        *turn(1, "assistant", "First.", loss=False),
        *turn(2, "user", "B?"),
        *turn(3, "assistant", "Second."),
    ]
    learnt = "".join(re.findall("⟦(.*?)⟧", trained(name, one(name, parts)), re.DOTALL))
    assert "Second." in learnt
    assert "First" not in learnt
    everything = "".join(re.findall("⟦(.*?)⟧", trained(name, one(name, parts, "all")), re.DOTALL))
    assert "First" not in everything
    assert all(text in everything for text in ("A?", "B?", "Second."))


def test_what_a_template_refuses_is_refused_with_its_words() -> None:
    encoded = one("gemma3", turn(0, "user", "Hi") + turn(1, "user", "there"))
    assert "Conversation roles must alternate" in encoded.refused[0].detail
    assert encoded.offsets.tolist() == [0, 0]


# --- tools and thoughts

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weigh",
            "description": 'Weighs a stone <b>&</b> "more".',
            "parameters": {"type": "object", "properties": {"stone": {"type": "integer"}}, "required": ["stone"]},
        },
    }
]


@st.composite
def with_tools(draw: st.DrawFn, as_text: bool) -> list[dict[str, Any]]:
    """Rounds of a question, a call with or without words and thoughts, what the tool gave, and the answer."""
    said: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        arguments: Any = {"stone": draw(st.integers(0, 9)), "why": draw(plain)}
        call = {"name": "weigh", "arguments": json.dumps(arguments) if as_text else arguments}
        calls = [{"id": "123456789", "type": "function", "function": call}]
        thought = {"reasoning_content": draw(plain)} if draw(st.booleans()) else {}
        said.append({"role": "user", "content": "Q" + draw(plain)})
        said.append({"role": "assistant", "content": draw(plain), "tool_calls": calls, **thought})
        said.append({"role": "tool", "content": draw(plain), "tool_call_id": "123456789"})
        said.append({"role": "assistant", "content": "A" + draw(plain), **thought})
    return said


@pytest.mark.parametrize(
    ("name", "as_text"),
    [
        *(("qwen3", True), ("qwen3", False), ("qwen3_training", True), ("qwen3_vl", True), ("qwen3_5", False)),
        *(("mistral_v3_tekken", False), ("deepseekv3", True)),
    ],
)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_tools_and_thoughts_have_the_ids_of_transformers(name: str, as_text: bool, data: st.DataObject) -> None:
    said = data.draw(with_tools(as_text))
    assume("[" not in json.dumps([message["content"] for message in said])[1:])
    parts = messages_format.conversation("0", {"messages": said, "tools": TOOLS}).parts
    encoded = one(name, parts)
    oracle = published(name).oracle
    normal = [{key: value for key, value in message.items() if value != {}} for message in said]
    expected = oracle.apply_chat_template(
        normal, tools=TOOLS, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert not encoded.refused
    assert encoded.ids.tolist() == expected["input_ids"]
    if name == "qwen3_training":
        assert encoded.loss.tolist() == [bool(learnt) for learnt in expected["assistant_masks"]]


def called(name: str) -> str:
    said = [
        {"role": "user", "content": "How heavy?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "I weigh it.",
            "tool_calls": [{"type": "function", "function": {"name": "weigh", "arguments": {"stone": 1}}}],
        },
        {"role": "tool", "content": "2 kg"},
        {"role": "assistant", "content": "Two."},
    ]
    parts = messages_format.conversation("0", {"messages": said, "tools": TOOLS}).parts
    return trained(name, one(name, parts)).rpartition("</tools>")[2].partition("<|im_end|>\n")[2]


def test_calls_are_learnt_and_what_tools_gave_is_not() -> None:
    asked = "<|im_start|>user\nHow heavy?<|im_end|>\n<|im_start|>assistant\n"
    gave = "<|im_start|>user\n<tool_response>\n2 kg\n</tool_response><|im_end|>\n"
    call = '<tool_call>\n{"name": "weigh", "arguments": {"stone": 1}}\n</tool_call><|im_end|>'
    thought = "<think>\nI weigh it.\n</think>\n\n"
    assert called("qwen3") == (
        f"{asked}⟦{thought}{call}⟧\n{gave}<|im_start|>assistant\n<think>\n\n</think>\n\n⟦Two.<|im_end|>⟧\n"
    )
    assert called("qwen3_vl") == f"{asked}⟦{call}⟧\n{gave}<|im_start|>assistant\n⟦Two.<|im_end|>⟧\n"
    assert "<think>\n⟦I weigh it.\n</think>\n\n<tool_call>\n<function=weigh>" in called("qwen3_5")


def test_arguments_are_given_as_the_template_wants_them() -> None:
    """OpenAI has them as JSON in a text, which Qwen3.5's template does not take."""
    call = {"function": {"name": "weigh", "arguments": '{"stone": 1}'}}
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    encoded = one("qwen3_5", messages_format.conversation("0", {"messages": said}).parts)
    assert "<parameter=stone>\n1\n</parameter>" in trained("qwen3_5", encoded)


def test_a_table_says_what_it_has_no_form_for() -> None:
    for parts in (turn(0, "tool", "x"), [Part(0, "assistant", None, "[]", "tool_calls")]):
        encoded = encode([parts], "chat", TEMPLATES["chatml"], published("qwen3").tokeniser)
        assert encoded.refused[0].reason == "unsupported_role"
        assert "name one in Jinja" in encoded.refused[0].detail


def test_a_table_writes_a_thought_before_its_answer() -> None:
    parts = [
        Part(0, "user", None, "?"),
        Part(1, "assistant", None, "hm", "reasoning_content"),
        *turn(1, "assistant", "A"),
    ]
    encoded = encode([parts], "chat", TEMPLATES["chatml"], published("qwen3").tokeniser)
    assert trained("qwen3", encoded).endswith("assistant\n⟦<think>\nhm\n</think>\n\nA<|im_end|>⟧\n")


# --- weights of turns


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3", "llama3", "llama3_training", "mistral_v1"])
@pytest.mark.parametrize("slowly", [True, False])
@pytest.mark.parametrize("loss", ["answers", "all"])
def test_a_turns_weight_is_that_of_its_words_and_of_the_token_that_ends_it(name: str, slowly: bool, loss: str) -> None:
    parts = [
        Part(n, ("user", "assistant")[n % 2], None, text, None, weight)
        for n, (text, weight) in enumerate(
            [("A?", None), ("One.", 0.25), ("B?", None), ("Two.", None), ("C?", None), ("Three.", 3.0)]
        )
    ]
    encoded = one(name, parts, loss, slowly)
    assert encoded.weights is not None
    said = {0.25: "", 1.0: "", 3.0: ""}
    for number, has, weight in zip(encoded.ids.tolist(), encoded.loss, encoded.weights.tolist(), strict=True):
        said[weight] += published(name).tokeniser.decode([number]) if has else ""
        assert has or weight == 1
    end = published(name).template.end
    for weight, words in ((0.25, "One."), (3.0, "Three.")):
        assert said[weight].strip().endswith(f"{words}{end}")
        assert loss == "all" or said[weight].strip() == f"{words}{end}"
    assert "Two." in said[1.0]


def test_without_weights_there_are_none() -> None:
    parts = [Part(0, "user", None, "A?", None, 0.5), *turn(1, "assistant", "B.")]
    assert one("qwen3", turn(0, "user", "A?") + turn(1, "assistant", "B.")).weights is None
    weights = one("qwen3", parts).weights
    assert weights is None or (weights == 1).all()

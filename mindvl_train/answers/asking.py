"""A question as a prompt: a picture, a clip and a text in the chat template that the model was trained on."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.runtime.sandbox import RenderError, render
from mindvl_data.shards import Pack, PackImage
from mindvl_train.answers.opened import Opened
from mindvl_train.answers.shown import Piece, clip, picture
from mindvl_train.models.generation import generate
from mindvl_train.weights.published.folder import TOKENIZER, read_json
from mindvl_train.weights.published.processor import published_template
from mindvl_train.weights.tokenizers import QWEN, FoundTokenizer, TokenizerError, find_tokenizer

# Qwen2-VL's, for a model that brings none.
TEMPLATE: Mapping[str, Any] = {
    "prefix": "<|im_start|>{role}\n",
    "suffix": "<|im_end|>\n",
    "default_system": "You are a helpful assistant.",
}
VIDEO_PAD = "<|video_pad|>"


class AskError(UserError):
    """A question that cannot be asked; says what is missing."""


def answer(
    opened: Opened, tokenizer: Path | None, question: str, image: Path | None, limit: int, video: Path | None = None
) -> str:
    """What the model says, by greedy generation.

    Args:
        opened: the model.
        tokenizer: its `tokenizer.json`, a folder with one, or `qwen`; None: the one it was published with, or
            `qwen` where its data has that.
        question: the user's text.
        image: a picture that stands before it.
        limit: of new tokens.
        video: a clip that stands before it, behind the picture.

    Raises:
        AskError: no tokenizer is known, or it is another than the data's; a special token is missing; the picture
            or the clip cannot be read.
        NoVideoSupportError: there is a clip, and PyAV is not installed.
    """
    read = _tokenizer(opened, tokenizer)
    opened = _knowing_videos(opened, read) if video else opened
    media = [*_shown(opened, picture, image), *_shown(opened, clip, video)]
    prompt = _prompt(opened, read, question, media)
    stop = {opened.special_ids[name] for name in ("im_end", "end_of_text") if name in opened.special_ids}
    said = generate(opened.model, prompt, opened.layout, opened.device, stop, limit)
    text: str = read.decode(said)
    return text


def _shown(opened: Opened, look: Callable[[Opened, bytes], list[Piece]], path: Path | None) -> list[Piece]:
    try:
        return look(opened, path.read_bytes()) if path else []
    except OSError as error:
        raise AskError(f"{path}: cannot be read ({error.strerror})") from error
    except vision.BadImage as error:
        raise AskError(f"{path}: {error}") from error


def _knowing_videos(opened: Opened, tokenizer: Tokenizer) -> Opened:
    """A model that was trained without videos takes their token from its tokenizer."""
    if opened.layout.video_pad is not None:
        return opened
    token = tokenizer.token_to_id(VIDEO_PAD)
    if token is None or token >= opened.inputs.vocab_size:
        raise AskError(f"--video: the model's tokenizer has no {VIDEO_PAD}; ask a model whose tokenizer has it")
    return replace(opened, layout=replace(opened.layout, video_pad=token))


def _tokenizer(opened: Opened, given: Path | None) -> Tokenizer:
    expected = opened.data.get("tokenizer", {}).get("sha256")
    found = next(filter(None, map(find_tokenizer, [given] if given else opened.homes)), None)
    if found and expected and found.sha256 != expected:
        raise AskError(f"{found.shown}: is another tokenizer than the model's data was built with")
    if found is None and given is None:
        found = _qwen(expected)
    if found is None:
        raise AskError(f"{given or 'the model'}: there is no {TOKENIZER}; name it with --tokenizer")
    return found.read()


def _qwen(expected: str | None) -> FoundTokenizer | None:
    """The one that no file has, where the data was built with it."""
    try:
        found = find_tokenizer(QWEN) if expected else None
    except TokenizerError:
        return None
    return found if found and found.sha256 == expected else None


def _published_template(opened: Opened) -> Mapping[str, Any]:
    """The one that a model was published with; without one Qwen2-VL's."""
    for home in opened.homes:
        if (text := published_template(home)) is not None:
            return {"jinja": text, "variables": _variables(home)}
    return TEMPLATE


def _variables(home: Path) -> dict[str, str]:
    """The special tokens that a template may speak of, as `bos_token`."""
    path = home / "tokenizer_config.json"
    stated = read_json(path) if path.is_file() else {}
    tokens = {name: value for name, value in stated.items() if name.endswith("_token")}
    named = {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items()}
    return {name: value for name, value in named.items() if isinstance(value, str)}


def _prompt(opened: Opened, tokenizer: Tokenizer, question: str, media: Sequence[Piece] = ()) -> Pack:
    tokens: list[int] = []
    images: list[PackImage] = []
    described = opened.data.get("chat_template") or _published_template(opened)
    for part in _parts(
        _rendered(described, tokenizer) if "jinja" in described else _filled(described), question, media
    ):
        if isinstance(part, PackImage):
            images.append(replace(part, start=len(tokens) + 1))
            video, layout = opened.layout.video_pad, opened.layout
            pad = video if part.is_video and video is not None else layout.image_pad
            run = [pad] * vision.num_vision_tokens(*part.grid, opened.layout.merge)
            tokens += [opened.special_ids["vision_start"], *run, opened.special_ids["vision_end"]]
        else:
            tokens += _ids(tokenizer, part)
    return Pack(
        index=0,
        tokens=np.array(tokens, np.int32),
        loss_mask=np.zeros(len(tokens), np.bool_),
        cu_seqlens=np.array([0, len(tokens)], np.int32),
        num_tokens=len(tokens),
        sample_ids=(b"",),
        sources=("",),
        repeats=(0,),
        images=tuple(images),
        num_patches=sum(each.num_patches for each in images),
        attention_cost=0,
        vision_cost=0,
    )


@dataclass(frozen=True)
class _Special:
    """A special token, by its content."""

    content: str


# What a template writes before and behind a question.
_Around = tuple[Sequence[str | _Special], Sequence[str | _Special]]
TABLE_TOKENS = r"<\|[^|]*\|>"


def _filled(template: Mapping[str, Any]) -> _Around:
    """What a table writes around a question."""
    prefix, system = template["prefix"], template["default_system"]
    opening = prefix.format(role="system") + system + template["suffix"] if system else ""
    before, after = opening + prefix.format(role="user"), template["suffix"] + prefix.format(role="assistant")
    return [*_split(before, TABLE_TOKENS)], [*_split(after, TABLE_TOKENS)]


def _rendered(template: Mapping[str, Any], tokenizer: Tokenizer) -> _Around:
    """What a template in Jinja writes around a question."""
    question, day = "\ue000", template.get("day")
    try:
        text = render(
            template["jinja"],
            [{"role": "user", "content": question}],
            values=template["variables"],
            add_generation_prompt=True,
            now=datetime.fromisoformat(day) if day else None,
        ).text
    except RenderError as error:
        raise AskError(f"the model's chat template does not take a question ({error})") from error
    added = tokenizer.get_added_tokens_decoder().values()
    special = sorted((token.content for token in added if token.special), key=len, reverse=True)
    before, found, after = text.partition(question)
    if not found:
        raise AskError("the model's chat template leaves the question out")
    tokens = "|".join(map(re.escape, special)) or "(?!)"
    return [*_split(before, tokens)], [*_split(after, tokens)]


def _parts(around: _Around, question: str, media: Sequence[Piece]) -> Iterator[Piece | _Special]:
    """The chat up to where the assistant begins; text between two special tokens is one piece, as in a build."""
    before, after = around
    # What the user writes is text, even where it looks like a control token: only the template is split.
    pieces: list[Piece | _Special] = [*before, *media, question, *after]
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield text
        yield piece
        text = ""
    if text:
        yield text


def _split(template: str, tokens: str) -> Iterator[str | _Special]:
    for index, piece in enumerate(re.split(f"({tokens})", template)):
        yield _Special(piece) if index % 2 else piece


def _ids(tokenizer: Tokenizer, part: str | _Special) -> list[int]:
    if isinstance(part, _Special):
        token = tokenizer.token_to_id(part.content)
        if token is None:
            raise AskError(f"the tokenizer has no {part.content}, which the chat template needs")
        return [token]
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(part, add_special_tokens=False).ids
    return ids

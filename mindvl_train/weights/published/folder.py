"""Published folders on disk: `config.json`, weights, and the small files beside them."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mindvl_train import plugins
from mindvl_train.weights.processing import RECORD
from mindvl_train.weights.published.block_scaled import open_block_scaled
from mindvl_train.weights.published.family import Joint, Json, Language, PublishedError, Vision
from mindvl_train.weights.tensor_files import TensorFiles, open_folder

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
QUANTISED = "quantization_config"
# Other forms of a tokenizer.
SLOW_TOKENIZERS = ("vocab.json", "merges.txt", "tokenizer.model")
# What DistributedDataParallel and torch.compile write into names.
PARALLEL, COMPILED = "module.", "_orig_mod."
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Configurations, tokenizers, chat templates, processors; never code.
SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model")
# The names of the special tokens in a published tokenizer, by what a manifest calls them.
SPECIAL_TOKENS = {
    "<|endoftext|>": "end_of_text",
    "<|im_start|>": "im_start",
    "<|im_end|>": "im_end",
    "<|vision_start|>": "vision_start",
    "<|vision_end|>": "vision_end",
    "<|image_pad|>": "image_pad",
    "<|video_pad|>": "video_pad",
}


@dataclass(frozen=True)
class PublishedFolder:
    """A folder and the family that its `config.json` names."""

    path: Path
    config: Json
    family: Language | Vision | Joint
    tensors: TensorFiles

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens that its `tokenizer.json` names."""
        path = self.path / TOKENIZER
        added: list[dict[str, Any]] = read_json(path).get("added_tokens", []) if path.exists() else []
        return {SPECIAL_TOKENS[token["content"]]: token["id"] for token in added if token["content"] in SPECIAL_TOKENS}

    @property
    def tokenizer_sha256(self) -> str | None:
        """Of its `tokenizer.json` in canonical form, as a manifest states it."""
        path = self.path / TOKENIZER
        return tokenizer_sha256(path) if path.exists() else None


def open_published(path: Path) -> PublishedFolder:
    """Reads a folder's configuration and the headers of its weights.

    Raises:
        PublishedError: it has no `config.json`, or one of a family that nobody registers.
        TensorFileError: its weights are missing or damaged.
    """
    if not (path / CONFIG).exists():
        raise PublishedError(f"{path}: has no {CONFIG}; give the folder of a published model")
    config = read_json(path / CONFIG)
    kind = config.get("model_type", "")
    known = plugins.available(plugins.PUBLISHED)
    if kind not in known:
        raise PublishedError(f"{path}: its model_type is {kind!r}; known: {', '.join(known)}")
    family = plugins.load(plugins.PUBLISHED, kind)
    tensors = open_folder(path).renamed(partial(_published_name, aliases=getattr(family, "aliases", {})))
    _check_tokenizer(path)
    if config.get(QUANTISED):
        tensors = open_block_scaled(tensors, config[QUANTISED], stated_dtype(config, path))
    return PublishedFolder(path, config, family, tensors)


def _published_name(name: str, aliases: Mapping[str, str]) -> str:
    """What a tensor of a raw `state_dict` is published as: a wrapped module's names have the wrapper's before them."""
    bare = name.removeprefix(PARALLEL).replace(COMPILED, "")
    begun = next((raw for raw in aliases if bare.startswith(raw)), None)
    return bare if begun is None else aliases[begun] + bare.removeprefix(begun)


def _check_tokenizer(path: Path) -> None:
    """Raises PublishedError where a folder has a tokenizer in a form that nobody here reads."""
    slow = [name for name in SLOW_TOKENIZERS if (path / name).exists()]
    if slow and not (path / TOKENIZER).exists():
        raise PublishedError(
            f"{path}: has {slow[0]} and no {TOKENIZER}; write one beside it with transformers: "
            f"AutoTokenizer.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        )


def read_json(path: Path) -> Json:
    """A file that holds one JSON object.

    Raises:
        PublishedError: it does not.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise PublishedError(f"{path}: is not JSON ({error}); fetch the folder again") from error
    if not isinstance(content, dict):
        raise PublishedError(f"{path}: holds no JSON object; fetch the folder again")
    return content


def tokenizer_sha256(path: Path) -> str:
    """SHA-256 of a `tokenizer.json` in canonical form: `tokenizer.sha256` of a manifest."""
    return canonical_sha256(read_json(path))


def canonical_sha256(content: Any) -> str:
    """SHA-256 of parsed JSON, written with its keys sorted and without white space."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def stated_dtype(config: Json, path: Path) -> torch.dtype:
    """The type that `config.json` states, under its name of today or of before transformers 5, of the whole or, as the
    hub's Qwen3-VL and Qwen3.5 have it, of the text alone; else float32.

    Raises:
        PublishedError: it is none that weights are written in.
    """
    places = (config, config.get("text_config") or {})
    found = (place.get(name) for place in places for name in ("dtype", "torch_dtype"))
    stated = next((each for each in found if each), "float32")
    if stated not in DTYPES:
        raise PublishedError(f"{path}: config.json states the type {stated!r}; known: {', '.join(DTYPES)}")
    return DTYPES[stated]


def copy_small_files(source: Path, target: Path) -> None:
    """Copies everything but weights and code; what `target` has already is replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        wanted = any(fnmatchcase(path.name, pattern) for pattern in SMALL_FILES)
        if path.is_file() and wanted and not path.name.endswith(".index.json") and path.name != RECORD:
            shutil.copyfile(path, target / path.name)

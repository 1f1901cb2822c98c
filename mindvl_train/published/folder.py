"""Published folders on disk: `config.json`, weights, and the small files beside them."""

import json
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mindvl_train import plugins
from mindvl_train.published.family import Joint, Json, Language, PublishedError, Vision
from mindvl_train.tensor_files import TensorFiles, open_folder

CONFIG = "config.json"
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
        path = self.path / "tokenizer.json"
        added: list[dict[str, Any]] = json.loads(path.read_text()).get("added_tokens", []) if path.exists() else []
        return {SPECIAL_TOKENS[token["content"]]: token["id"] for token in added if token["content"] in SPECIAL_TOKENS}


def open_published(path: Path) -> PublishedFolder:
    """Reads a folder's configuration and the headers of its weights.

    Raises:
        PublishedError: it has no `config.json`, or one of a family that nobody registers.
        TensorFileError: its weights are missing or damaged.
    """
    if not (path / CONFIG).exists():
        raise PublishedError(f"{path}: has no {CONFIG}; give the folder of a published model")
    config = json.loads((path / CONFIG).read_text())
    if "quantization_config" in config:
        raise PublishedError(f"{path}: its weights are quantised; convert them to bfloat16 first")
    kind = config.get("model_type", "")
    known = plugins.available(plugins.PUBLISHED)
    if kind not in known:
        raise PublishedError(f"{path}: its model_type is {kind!r}; known: {', '.join(known)}")
    return PublishedFolder(path, config, plugins.load(plugins.PUBLISHED, kind), open_folder(path))


def copy_small_files(source: Path, target: Path) -> None:
    """Copies everything but weights and code; what `target` has already is replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        wanted = any(fnmatchcase(path.name, pattern) for pattern in SMALL_FILES)
        if path.is_file() and wanted and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)

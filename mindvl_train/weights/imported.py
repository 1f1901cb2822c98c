"""A model folder: weights under our names, the model's configuration, and what was published beside them.

`python -m mindvl_train import` writes one; a run begins from it with `model: {name: vlm, weights: FOLDER}`.
It holds `mindvl.json`, safetensors files, and under `published/` the small files of the folders it was made
of: configurations, tokenizer, chat template and processor, which an export puts back.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.shards import file_sha256
from mindvl_train.weights.processing import RECORD
from mindvl_train.weights.tensor_files import TensorFiles, open_folder

DESCRIPTION = "mindvl.json"
PUBLISHED = "published"
FORMAT_VERSION = 2


class ImportedError(UserError):
    """A folder that is no model folder; says what writes one."""


@dataclass(frozen=True)
class Imported:
    """What a model folder holds.

    Attributes:
        model: its name among the model plugins.
        config: the model's configuration, as `model.config` of a run's YAML would hold it.
        special_ids: the tokens that its weights know, as far as the published tokenizer named them.
        tokenizer_sha256: of the published tokenizer, as a manifest states it; None: there was none.
        tensors: one a parameter, read when asked for; None: only the description is there.
        sha256: of the description, which names the hash of every file of weights.
    """

    folder: Path
    model: str
    config: dict[str, Any]
    special_ids: dict[str, int]
    tokenizer_sha256: str | None
    tensors: TensorFiles | None
    sha256: str


def read_imported(folder: Path) -> Imported:
    """Opens a model folder.

    Raises:
        ImportedError, TensorFileError: it is none, or of another version, or incomplete.
    """
    return replace(read_description(folder), tensors=open_folder(folder))


def keep_start(folder: Path, kept: Path) -> None:
    """Copies what a run needs of the folder that it begins from, but for the weights: every checkpoint has those.

    Args:
        folder: a model folder.
        kept: in the run's folder; what is there already stays.
    """
    if kept.exists():
        return
    with atomic.whole(kept) as unfinished:
        unfinished.mkdir()
        if (folder / PUBLISHED).exists():
            shutil.copytree(folder / PUBLISHED, unfinished / PUBLISHED)
        for name in (DESCRIPTION, RECORD):
            if (folder / name).exists():
                shutil.copyfile(folder / name, unfinished / name)


def read_description(folder: Path) -> Imported:
    """A model folder without its weights.

    Raises:
        ImportedError: it is none, or of another version.
    """
    try:
        text = (folder / DESCRIPTION).read_bytes()
    except OSError as error:
        advice = "`python -m mindvl_train import` makes one from published weights"
        raise ImportedError(f"{folder}: no model folder (no {DESCRIPTION} in it); {advice}") from error
    try:
        description = json.loads(text)
        found = description["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ImportedError(f"{folder / DESCRIPTION}: is damaged ({error!r}); import the model again") from error
    if found != FORMAT_VERSION:
        raise ImportedError(f"{folder}: its format is {found}, this version reads {FORMAT_VERSION}; import it again")
    return Imported(
        folder=folder,
        model=description["model"]["name"],
        config=description["model"]["config"],
        special_ids=description["special_ids"],
        tokenizer_sha256=description["tokenizer_sha256"],
        tensors=None,
        sha256=hashlib.sha256(text).hexdigest(),
    )


def write_description(
    folder: Path, model: dict[str, Any], special_ids: dict[str, int], tokenizer_sha256: str | None, files: list[Path]
) -> None:
    """Writes `mindvl.json`, last: without it the folder is none; `model` has a plugin's `name` and its `config`."""
    weights = {path.name: file_sha256(path) for path in files}
    description = {
        "format_version": FORMAT_VERSION,
        "model": model,
        "special_ids": special_ids,
        "tokenizer_sha256": tokenizer_sha256,
        "weights": weights,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")

"""Weights averaged over checkpoints, as MindVL ends: over those trained at several sequence lengths."""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindvl_data.errors import UserError
from mindvl_train.dtensor import local
from mindvl_train.weights.checkpoint import STATE, WEIGHTS, load_tensors, newest
from mindvl_train.weights.durable import new_folder
from mindvl_train.weights.imported import DESCRIPTION, PUBLISHED, write_description
from mindvl_train.weights.processing import write_processing
from mindvl_train.weights.tensor_files import write_folder
from mindvl_train.weights.trained import Trained, open_trained

PARENTS = "parents.json"


class AverageError(UserError):
    """Checkpoints that cannot be averaged; says which and why."""


@torch.no_grad()
def average_into(weights: Mapping[str, Tensor], parents: Mapping[Path, float]) -> None:
    """Replaces weights by the mean of those of checkpoints; a rank reads and adds its pieces alone.

    Args:
        weights: of every parameter, sharded or not, in float32.
        parents: checkpoints, and what each counts for; the shares need not add up to 1.
    """
    whole = sum(parents.values())
    sums = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for parent, share in parents.items():
        load_tensors(parent / WEIGHTS, weights)
        for name, tensor in weights.items():
            local(sums[name]).add_(local(tensor), alpha=share / whole)
    for name, tensor in weights.items():
        local(tensor).copy_(local(sums[name]))


def average_folders(sources: Sequence[Path], shares: Sequence[str] | None, out: Path) -> list[dict[str, Any]]:
    """Writes the mean of several models as a model folder; no more than one file of it is ever in memory.

    Args:
        sources: runs (their last checkpoints), checkpoints or model folders, all of one model.
        shares: what each counts for, as numbers in text; None: all the same.
        out: must not exist.

    Returns:
        The parents as `parents.json` records them: folder, share and hash.

    Raises:
        AverageError: they are of different models, or the shares are not as many positive numbers.
        PublishedError: a source is nothing of that kind.
    """
    if out.exists():
        raise AverageError(f"{out} exists already; give another --out")
    numbers = _shares(shares, len(sources))
    models = [open_trained(source) for source in sources]
    for source, model in zip(sources[1:], models[1:], strict=True):
        _check_same(sources[0], models[0], source, model)
    parents = [_parent(source, share) for source, share in zip(sources, numbers, strict=True)]
    first = models[0]
    with new_folder(out) as unfinished:
        files = write_folder(unfinished, _averaged([model.weights for model in models], numbers))
        if first.published is not None and first.published.exists():
            shutil.copytree(first.published, unfinished / PUBLISHED)
        (unfinished / PARENTS).write_text(json.dumps(parents, indent=2) + "\n")
        write_processing(unfinished, _data(sources, models))
        description = {"name": first.model, "config": first.config.model_dump(mode="json")}
        write_description(unfinished, description, first.special_ids, first.tokenizer_sha256, files)
    return parents


def _averaged(weights: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> Iterator[tuple[str, Tensor]]:
    for name in sorted(weights[0]):
        first = weights[0][name]
        if not first.is_floating_point():
            yield name, first
            continue
        mean = first.float() * shares[0]
        for each, share in zip(weights[1:], shares[1:], strict=True):
            mean.add_(each[name].float(), alpha=share)
        yield name, mean


def _shares(texts: Sequence[str] | None, count: int) -> list[float]:
    """They add up to 1."""
    try:
        numbers = [float(text) for text in texts] if texts else [1.0] * count
    except ValueError as error:
        raise AverageError(f"--weights: {error}; give numbers with commas between them") from error
    if len(numbers) != count:
        raise AverageError(f"--weights: {len(numbers)} numbers for {count} checkpoints; give one for each")
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise AverageError("--weights: every number must be positive")
    return [number / sum(numbers) for number in numbers]


def _check_same(source: Path, model: Trained, other_source: Path, other: Trained) -> None:
    if (model.model, model.config) != (other.model, other.config):
        raise AverageError(f"{other_source} holds another model than {source}; only weights of one model average")
    if model.weights.keys() != other.weights.keys():
        odd = sorted(model.weights.keys() ^ other.weights.keys())[0]
        raise AverageError(f"{other_source} and {source}: only one of them has {odd}")


def _parent(source: Path, share: float) -> dict[str, Any]:
    """By the names of its folders, without the place on this machine."""
    folder = newest(source / "checkpoints") or source
    record = folder / (STATE if (folder / STATE).exists() else DESCRIPTION)
    digest = hashlib.sha256(record.read_bytes()).hexdigest()
    names = folder.resolve().parts
    within_run = folder.resolve().parent.name == "checkpoints"
    return {"folder": "/".join(names[-3:] if within_run else names[-1:]), "share": share, "sha256": digest}


def _data(sources: Sequence[Path], models: Sequence[Trained]) -> dict[str, Any]:
    """What the last of them that was trained is asked with.

    Raises:
        AverageError: they were trained with other tokenizers or templates.
    """
    known = [(source, model.data) for source, model in zip(sources, models, strict=True) if "tokenizer" in model.data]
    for source, data in known[1:]:
        for key in ("tokenizer", "chat_template"):
            if data[key] != known[0][1][key]:
                raise AverageError(f"{source} was trained with another {key} than {known[0][0]}")
    return dict(known[-1][1]) if known else dict(models[-1].data)

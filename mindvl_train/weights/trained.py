"""What was trained, wherever it lies: in a run, in one of its checkpoints, or in a model folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mindvl_data.errors import UserError
from mindvl_train import plugins
from mindvl_train.config.run_folder import RECORD, START
from mindvl_train.models.spec import ModelSpec
from mindvl_train.weights.checkpoint import WEIGHTS, newest
from mindvl_train.weights.imported import DESCRIPTION, PUBLISHED, read_imported
from mindvl_train.weights.processing import read_processing
from mindvl_train.weights.saved import open_saved

# What the record of a run of before `processing.json` holds.
DATA = ("tokenizer", "chat_template", "resolution")


class TrainedError(UserError):
    """A folder that holds nothing trained; says what would."""


@dataclass(frozen=True)
class Trained:
    """A model, its weights not read yet.

    Attributes:
        model: its name among the model plugins.
        config: of the model: has `vision` and `decoder`.
        weights: one tensor a parameter, read when asked for.
        special_ids: the tokens that the weights know.
        published: the small files of the folders the model was imported from, if it was.
        data: what it is asked with, as far as that is known: see `processing.py`.
        tokenizer_sha256: of the tokenizer that its weights know; None: unknown.
    """

    model: str
    config: Any
    weights: Mapping[str, Tensor]
    special_ids: dict[str, int]
    published: Path | None
    data: dict[str, Any]
    tokenizer_sha256: str | None = None


def open_trained(source: Path) -> Trained:
    """A model folder, a run's last checkpoint or one of its checkpoints.

    Raises:
        TrainedError: it is none of these.
    """
    if (source / DESCRIPTION).exists():
        imported = read_imported(source)
        return Trained(
            imported.model,
            _config(imported.model, imported.config),
            imported.tensors or {},
            imported.special_ids,
            source / PUBLISHED if (source / PUBLISHED).exists() else None,
            read_processing(source),
            imported.tokenizer_sha256,
        )
    checkpoint = newest(source / "checkpoints") or source
    record_path = (checkpoint.parent.parent / RECORD).resolve()
    if not (checkpoint / WEIGHTS).exists() or not record_path.exists():
        raise TrainedError(f"{source}: is neither a model folder nor a run's folder nor one of its checkpoints")
    record = json.loads(record_path.read_text())
    data = read_processing(checkpoint) or {key: record[key] for key in DATA if key in record}
    return Trained(
        model=record["model"]["name"],
        config=_config(record["model"]["name"], record["model"]["config"]),
        weights=open_saved(checkpoint / WEIGHTS),
        special_ids=record["special_ids"],
        published=_published(record_path.parent, record["weights"]),
        data=data,
        tokenizer_sha256=data["tokenizer"]["sha256"] if data else None,
    )


def _published(run: Path, begun_from: str | None) -> Path | None:
    """The small files of what a run began from: its own copy, or, of a run of before there was one, those beside the
    weights, where they still are."""
    if begun_from is None:
        return None
    places = (run / START / PUBLISHED, Path(begun_from) / PUBLISHED)
    return next((place for place in places if place.exists()), None)


def _config(model: str, settings: dict[str, Any]) -> Any:
    spec: ModelSpec = plugins.load(plugins.MODELS, model)
    return spec.config(**settings)

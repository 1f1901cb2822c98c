"""A trained model, ready to answer: from a run, a checkpoint, a model folder or a published one."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest
from mindvl_train import accelerators, plugins
from mindvl_train.data.batch import BatchLayout
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.spec import ModelSpec
from mindvl_train.weights.imported import DESCRIPTION
from mindvl_train.weights.published.folder import CONFIG
from mindvl_train.weights.published.importing import LANGUAGE, import_model
from mindvl_train.weights.trained import Trained, open_trained


class OpenError(UserError):
    """A model and a set that do not belong together."""


@dataclass(frozen=True)
class Opened:
    """A model with its weights on a device.

    Attributes:
        model: in evaluation.
        layout: how packs become its batches.
        device: where it is.
        special_ids: the tokens that its weights know, by our names.
        data: `tokenizer`, `chat_template` and `resolution` of the data it was trained on; empty for a model that
            was imported and not trained.
        published: the small files it was published with, if it was.
    """

    model: nn.Module
    layout: BatchLayout
    device: torch.device
    special_ids: dict[str, int]
    data: dict[str, Any]
    published: Path | None

    def check(self, manifest: Manifest) -> None:
        """Raises OpenError if the manifest's special tokens are others than the model's."""
        theirs: dict[str, int] = manifest.tokenizer["special_ids"]
        for name, mine in self.special_ids.items():
            if theirs.get(name, mine) != mine:
                raise OpenError(
                    f"{manifest.path}: its {name} is token {theirs[name]}, the model's is {mine}; "
                    "build the set with the tokenizer of the model"
                )


def open_model(source: Path, accelerator: str = "auto") -> Opened:
    """Reads a model's weights.

    Args:
        source: a run's folder (its last checkpoint), a checkpoint, a model folder, or a folder as transformers
            publishes it.
        accelerator: a name, or `auto`.

    Raises:
        UserError: the source is none of these, or not whole.
    """
    if not _is_published(source):
        return _open(open_trained(source), accelerator)
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder) / "model"
        import_model(source, None, imported, seed=0)
        # The copy of the published files goes with the temporary folder; the files themselves stay.
        return replace(_open(open_trained(imported), accelerator), published=source)


def _is_published(source: Path) -> bool:
    return not (source / DESCRIPTION).exists() and ((source / CONFIG).exists() or (source / LANGUAGE).is_dir())


def _open(trained: Trained, accelerator: str) -> Opened:
    device = torch.device(accelerators.choose(accelerator).device_type)
    spec: ModelSpec = plugins.load(plugins.MODELS, trained.model)
    inputs = spec.inputs(trained.config)
    with torch.device("meta"):
        model = spec.build(trained.config, resolve(KernelConfig(), device.type))
    layout = BatchLayout(
        patch=inputs.patch,
        merge=inputs.merge,
        normalisation=inputs.normalisation,
        image_pad=trained.special_ids["image_pad"],
        window=inputs.window,
        position_axes=inputs.position_axes,
    )
    weighted = give_weights(model, 0, device, trained.weights).eval()
    return Opened(weighted, layout, device, trained.special_ids, trained.data, trained.published)

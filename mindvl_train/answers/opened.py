"""A trained model, ready to answer: from a run, a checkpoint, a model folder or a published one."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mindvl_data.manifest import Manifest
from mindvl_train import accelerators, plugins
from mindvl_train.data.batch import BatchLayout
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.loop.tokenizer_fit import check_fit
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.spec import ModelInputs, ModelSpec
from mindvl_train.weights.imported import DESCRIPTION
from mindvl_train.weights.published.folder import CONFIG
from mindvl_train.weights.published.importing import LANGUAGE, VISION, import_model
from mindvl_train.weights.trained import Trained, open_trained

ADVICE = "build the set with the tokenizer and the resolution of the model"


@dataclass(frozen=True)
class Opened:
    """A model with its weights on a device.

    Attributes:
        model: in evaluation.
        layout: how packs become its batches.
        device: where it is.
        special_ids: the tokens that its weights know, by our names.
        data: what it is asked with, as far as that is known: see `weights/processing.py`.
        published: the small files it was published with, if it was.
        inputs: what it expects of a set.
        tokenizer_sha256: of the tokenizer that its weights know; None: unknown.
    """

    model: nn.Module
    layout: BatchLayout
    device: torch.device
    special_ids: dict[str, int]
    data: dict[str, Any]
    published: Path | None
    inputs: ModelInputs
    tokenizer_sha256: str | None = None

    @property
    def homes(self) -> list[Path]:
        """Where the small files of a published model lie, if it has any."""
        published = self.published
        return [published, *(published / part for part in (LANGUAGE, VISION))] if published else []

    def for_set(self, manifest: Manifest) -> "Opened":
        """The same for a set's packs: a model that was trained without videos learns from it which token is theirs.

        Raises:
            FitError: the set was built for another model: what a run refuses to train on.
        """
        check_fit([manifest], self.inputs, self.tokenizer_sha256, self.special_ids, ADVICE)
        special_ids = {**manifest.tokenizer["special_ids"], **self.special_ids}
        return replace(self, layout=self.inputs.layout(special_ids), special_ids=special_ids)


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
    weighted = give_weights(model, 0, device, trained.weights).eval()
    return Opened(
        weighted,
        inputs.layout(trained.special_ids),
        device,
        trained.special_ids,
        trained.data,
        trained.published,
        inputs,
        trained.tokenizer_sha256,
    )

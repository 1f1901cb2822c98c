"""A model folder or a checkpoint → published folders, which transformers opens."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mindvl_train import plugins
from mindvl_train.checkpoint import WEIGHTS, CheckpointFolder
from mindvl_train.imported import DESCRIPTION, PUBLISHED, read_imported
from mindvl_train.models.vlm import VLMConfig
from mindvl_train.published.family import Joint, Json, Language, Naming, PublishedError, plain
from mindvl_train.published.folder import CONFIG, copy_small_files
from mindvl_train.published.importing import LANGUAGE, PROJECTOR, VISION
from mindvl_train.published.qwen2_5_vl import ALONE
from mindvl_train.run_folder import RECORD
from mindvl_train.tensor_files import SINGLE, open_files, write_folder

# Added to scores in float32, where a step of bfloat16 would be larger than what it learns in one.
KEPT_WIDE = ("e_score_correction_bias",)
# What `config.json` calls the tokens of a manifest.
TOKEN_IDS = {
    "image_pad": "image_token_id",
    "vision_start": "vision_start_token_id",
    "vision_end": "vision_end_token_id",
    "im_end": "eos_token_id",
    "end_of_text": "pad_token_id",
}


@dataclass(frozen=True)
class Trained:
    """What to export.

    Attributes:
        config: of the model.
        weights: one tensor a parameter, read when asked for.
        special_ids: the tokens that the weights know.
        published: the small files of the folders the model was imported from, if it was.
    """

    config: VLMConfig
    weights: Mapping[str, Tensor]
    special_ids: dict[str, int]
    published: Path | None


def export_model(source: Path, out: Path) -> tuple[str, ...]:
    """Writes one folder where transformers has a class for the whole, else one for each part.

    Args:
        source: a model folder, a run's folder (its last checkpoint) or a checkpoint.
        out: must not exist.

    Returns:
        The folders and files of weights that were written, relative to `out`.

    Raises:
        PublishedError: the source is none of these, or no published class computes its decoder.
    """
    if out.exists():
        raise PublishedError(f"{out} exists already; give another --out")
    trained = _open(source)
    unfinished = out.with_name(f".unfinished-{out.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    joint = _joint(trained)
    if joint:
        _write_joint(trained, *joint, unfinished)
    else:
        _write_parts(trained, unfinished)
    unfinished.rename(out)
    return (".",) if joint else (LANGUAGE, VISION, PROJECTOR)


def _open(source: Path) -> Trained:
    if (source / DESCRIPTION).exists():
        imported = read_imported(source)
        config = VLMConfig(**imported.config)
        return Trained(config, imported.tensors, imported.special_ids, source / PUBLISHED)
    checkpoint = CheckpointFolder(source / "checkpoints", 1).latest() or source
    record_path = (checkpoint.parent.parent / RECORD).resolve()
    if not (checkpoint / WEIGHTS).exists() or not record_path.exists():
        raise PublishedError(f"{source}: is neither a model folder nor a run's folder nor one of its checkpoints")
    record = json.loads(record_path.read_text())
    begun_from = record["weights"]
    return Trained(
        config=VLMConfig(**record["model"]["config"]),
        weights=open_files([checkpoint / WEIGHTS]),
        special_ids=record["special_ids"],
        published=read_imported(Path(begun_from)).folder / PUBLISHED if begun_from else None,
    )


def _families() -> Iterator[object]:
    for name in plugins.available(plugins.PUBLISHED):
        yield plugins.load(plugins.PUBLISHED, name)


def _joint(trained: Trained) -> tuple[Joint, Json] | None:
    for family in _families():
        config = family.write(trained.config.vision, trained.config.decoder) if isinstance(family, Joint) else None
        if isinstance(family, Joint) and config:
            return family, config
    return None


def _write_joint(trained: Trained, family: Joint, written: Json, out: Path) -> None:
    ids = {theirs: trained.special_ids[ours] for ours, theirs in TOKEN_IDS.items() if ours in trained.special_ids}
    one_source = trained.published is not None and not (trained.published / VISION).exists()
    config = _put(out, written | ids, trained.published, LANGUAGE, keep_config=one_source)
    names = {
        "decoder": family.language.name,
        "vision": family.vision.name_vision,
        "projector": family.vision.name_projector,
    }
    write_folder(out, _tensors(trained.weights, names, _dtype(config)))


def _write_parts(trained: Trained, out: Path) -> None:
    decoder = trained.config.decoder
    candidates = [(family, family.write(decoder)) for family in _families() if isinstance(family, Language)]
    language, written = next(((family, config) for family, config in candidates if config), (None, None))
    if language is None or written is None:
        raise PublishedError("no published class computes this decoder; known ones are those of docs/models.md")
    (out / LANGUAGE).mkdir()
    (out / VISION).mkdir()
    config = _put(out / LANGUAGE, written, trained.published, LANGUAGE, keep_config=True)
    dtype = _dtype(config)
    write_folder(out / LANGUAGE, _tensors(trained.weights, {"decoder": language.name}, dtype))
    tower = ALONE.write(trained.config.vision, decoder.hidden_size) | {"dtype": str(dtype).removeprefix("torch.")}
    _put(out / VISION, tower, trained.published, VISION, keep_config=False)
    names = {"vision": ALONE.name_vision, "projector": ALONE.name_projector}
    write_folder(out / VISION, _tensors(trained.weights, names, dtype))
    write_folder(out, _tensors(trained.weights, {"projector": plain("")}, dtype))
    (out / SINGLE).rename(out / PROJECTOR)


def _put(out: Path, written: Json, published: Path | None, part: str, *, keep_config: bool) -> Json:
    """The small files of one folder; its `config.json` is the published one where that still holds."""
    if published is not None and (published / part).exists():
        copy_small_files(published / part, out)
        if keep_config:
            kept: Json = json.loads((out / CONFIG).read_text())
            return kept
    (out / CONFIG).write_text(json.dumps(written, indent=2) + "\n")
    return written


def _dtype(config: Json) -> torch.dtype:
    """The type that `config.json` states, under its name of today or of before transformers 5."""
    stated = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype: torch.dtype = getattr(torch, stated)
    return dtype


def _tensors(
    weights: Mapping[str, Tensor], names: Mapping[str, Naming], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Published tensors of these parts, cast once and on the CPU: replicas of a device may round differently."""
    for name in sorted(weights):
        part, ours = name.split(".", 1)
        if part not in names:
            continue
        tensor = weights[name]
        wide = name.endswith(KEPT_WIDE)
        origin = names[part](ours, tuple(tensor.shape))
        pieces = tensor.unbind() if len(origin.names) > 1 else (tensor,)
        for published, piece in zip(origin.names, pieces, strict=True):
            yield published, piece.to(torch.float32 if wide else dtype).reshape(origin.shape)

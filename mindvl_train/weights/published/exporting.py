"""A model folder or a checkpoint → published folders, which transformers opens."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindvl_train import plugins
from mindvl_train.weights.durable import new_folder
from mindvl_train.weights.processing import write_processing
from mindvl_train.weights.published.family import Joint, Json, Language, Naming, PublishedError, Vision, plain
from mindvl_train.weights.published.folder import (
    CONFIG,
    QUANTISED,
    TOKENIZER,
    copy_small_files,
    read_json,
    stated_dtype,
)
from mindvl_train.weights.published.importing import KEPT_WIDE, LANGUAGE, PROJECTOR, VISION, check_dtype
from mindvl_train.weights.published.processor import adapt, write_processor
from mindvl_train.weights.tensor_files import SINGLE, write_folder
from mindvl_train.weights.trained import Trained, open_trained

# What a published `config.json` may say and what we write is not: quantised, with code of its own, with a layer that
# predicts a second token. None: the key goes.
NOT_OURS: dict[str, Any] = {
    QUANTISED: None,
    "auto_map": None,
    "num_nextn_predict_layers": 0,
    "mtp_num_hidden_layers": 0,
}
# What `config.json` calls the tokens of a manifest.
TOKEN_IDS = {
    "image_pad": "image_token_id",
    "video_pad": "video_token_id",
    "vision_start": "vision_start_token_id",
    "vision_end": "vision_end_token_id",
    "im_end": "eos_token_id",
    "end_of_text": "pad_token_id",
}


@dataclass(frozen=True)
class ExportReport:
    """The folders and files of weights that were written, relative to `out`, and whether a tokenizer is with them."""

    written: tuple[str, ...]
    tokenizer: bool


def export_model(source: Path, out: Path, dtype: str | None = None, tokenizer: Path | None = None) -> ExportReport:
    """Writes one folder where transformers has a class for the whole, else one for each part.

    Args:
        source: a model folder, a run's folder (its last checkpoint) or a checkpoint.
        out: must not exist; appears whole or not at all.
        dtype: a name of `DTYPES`; None: the type that the published `config.json` states, else float32.
        tokenizer: the `tokenizer.json` (or `qwen`) that the run's data was built with, for a model that was not
            imported and so brings none.

    Raises:
        PublishedError: the source is none of these, no published class computes its decoder, or the tokenizer is
            another than the data's.
    """
    if out.exists():
        raise PublishedError(f"{out} exists already; give another --out")
    check_dtype(dtype)
    trained = open_trained(source)
    joint = _joint(trained)
    with new_folder(out) as unfinished:
        home = unfinished if joint else unfinished / LANGUAGE
        if joint:
            _write_joint(trained, *joint, unfinished, dtype)
        else:
            _write_parts(trained, unfinished, dtype)
        if tokenizer is not None:
            write_processor(tokenizer, trained.data, trained.config.vision, home)
        if "tokenizer" in trained.data:
            for folder in (unfinished,) if joint else (home, unfinished / VISION):
                adapt(folder, trained.data, trained.special_ids, trained.config.vision)
        write_processing(unfinished, trained.data)
        has_tokenizer = (home / TOKENIZER).exists()
    return ExportReport((".",) if joint else (LANGUAGE, VISION, PROJECTOR), has_tokenizer)


def _families() -> Iterator[object]:
    for name in plugins.available(plugins.PUBLISHED):
        yield plugins.load(plugins.PUBLISHED, name)


def _joint(trained: Trained) -> tuple[Joint, Json] | None:
    for family in _families():
        if isinstance(family, Joint) and family.language.model == trained.model:
            config = family.write(trained.config.vision, trained.config.decoder)
            if config:
                return family, config
    return None


def _language(trained: Trained) -> tuple[Language, Json]:
    for family in _families():
        if isinstance(family, Language) and family.model == trained.model:
            config = family.write(trained.config.decoder)
            if config:
                return family, config
    raise PublishedError("no published class computes this decoder; known ones are those of docs/models.md")


def _vision(trained: Trained) -> tuple[Vision, Json]:
    for family in _families():
        if isinstance(family, Vision):
            config = family.write(trained.config.vision, trained.config.decoder.hidden_size)
            if config:
                return family, config
    raise PublishedError("no published class computes this vision tower; known ones are those of docs/models.md")


def _write_joint(trained: Trained, family: Joint, written: Json, out: Path, dtype: str | None) -> None:
    ids = {theirs: trained.special_ids[ours] for ours, theirs in TOKEN_IDS.items() if ours in trained.special_ids}
    ids |= _longest(trained)
    one_source = trained.published is not None and not (trained.published / VISION).exists()
    config = _put(out, written | ids, trained.published, LANGUAGE, dtype, keep_config=one_source)
    names = {
        "decoder": family.language.naming(trained.config.decoder),
        "vision": family.vision.name_vision,
        "projector": family.vision.name_projector,
    }
    write_folder(out, _tensors(trained.weights, names, stated_dtype(config, out)))


def _write_parts(trained: Trained, out: Path, asked: str | None) -> None:
    language, written = _language(trained)
    (out / LANGUAGE).mkdir()
    (out / VISION).mkdir()
    config = _put(out / LANGUAGE, written | _longest(trained), trained.published, LANGUAGE, asked, keep_config=True)
    dtype = stated_dtype(config, out)
    write_folder(out / LANGUAGE, _tensors(trained.weights, {"decoder": language.naming(trained.config.decoder)}, dtype))
    vision, tower = _vision(trained)
    _put(out / VISION, tower, trained.published, VISION, _dtype_name(config), keep_config=False)
    names = {"vision": vision.name_vision, "projector": vision.name_projector}
    write_folder(out / VISION, _tensors(trained.weights, names, dtype))
    write_folder(out, _tensors(trained.weights, {"projector": plain("")}, dtype))
    (out / SINGLE).rename(out / PROJECTOR)


def _longest(trained: Trained) -> Json:
    """The positions that the model was trained on, of which a configuration of ours says nothing."""
    seq_len = trained.data.get("seq_len")
    return {"max_position_embeddings": seq_len} if seq_len else {}


def _put(out: Path, written: Json, published: Path | None, part: str, dtype: str | None, *, keep_config: bool) -> Json:
    """The small files of one folder; its `config.json` is the published one where that still holds."""
    theirs = None
    if published is not None and (published / part).exists():
        copy_small_files(published / part, out)
        theirs = read_json(out / CONFIG) if keep_config else None
    if theirs is not None:
        config = _kept(theirs, dtype)
    elif published is not None and dtype is None:
        config = written | {"dtype": _dtype_name(read_json(published / LANGUAGE / CONFIG))}
    else:
        config = written | ({"dtype": dtype} if dtype else {})
    if config != theirs:
        (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return config


def _kept(published: Json, dtype: str | None) -> Json:
    """A published `config.json` without what does not hold for the weights beside it, also in its `text_config`."""
    if text := published.get("text_config"):
        states = "dtype" in text or "torch_dtype" in text
        published = published | {"text_config": _kept(text, dtype if states else None)}
    changes = {key: value for key, value in NOT_OURS.items() if key in published}
    if dtype is not None:
        changes["torch_dtype" if "torch_dtype" in published else "dtype"] = dtype
    return {key: value for key, value in (published | changes).items() if value is not None or key not in changes}


def _dtype_name(config: Json) -> str:
    return str(stated_dtype(config, Path(CONFIG))).removeprefix("torch.")


def _tensors(
    weights: Mapping[str, Tensor], names: Mapping[str, Naming], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Published tensors of these parts, cast once and on the CPU: replicas of a device may round differently."""
    unfinished: dict[str, dict[int, Tensor]] = {}
    for name in sorted(weights):
        part, ours = name.split(".", 1)
        if part not in names:
            continue
        tensor = weights[name]
        wide = name.endswith(KEPT_WIDE)
        origin = names[part](ours, tuple(tensor.shape))
        pieces = tensor.unbind() if len(origin.names) > 1 else (tensor,)
        for published, piece in zip(origin.names, pieces, strict=True):
            chunks = unfinished.setdefault(published, {})
            chunks[origin.part] = piece.to(torch.float32 if wide else dtype)
            if len(chunks) == max(1, len(origin.parts)):
                yield published, origin.theirs([chunks[part] for part in sorted(chunks)])
                del unfinished[published]

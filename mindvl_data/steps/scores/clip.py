"""CLIP through open_clip: how well a sample's text fits its images, and the embeddings of both where asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.samples import Asked, batches
from mindvl_data.vision import BadImage, load_rgb

DECODERS = 8
# Of the answers: raised when what the same model says of a sample changes, and not with every change of this file,
# because asking again is dear.
VERSION = 1
EMBEDDING = pl.List(pl.Float32)


@dataclass(frozen=True)
class Clip:
    """The model (an architecture of open_clip, `hf-hub:…`, or a folder), its weights, and where it runs."""

    model: str
    weights: str | None
    device: str
    batch: int
    max_pixels: int


def columns(name: str, embeddings: bool) -> dict[str, pl.DataType]:
    """What the score gives: the similarity, and with `embeddings` those of the image and the text."""
    found: dict[str, pl.DataType] = {name: pl.Float32()}
    return found | ({f"{name}_image": EMBEDDING, f"{name}_text": EMBEDDING} if embeddings else {})


@dataclass(frozen=True)
class ClipTask:
    """What to ask about, and the columns wanted: see `answers`."""

    clip: Clip
    asked: Asked
    name: str
    embeddings: bool


def ask(task: ClipTask) -> pl.DataFrame:
    """The answers of one task; the process keeps the model for the next."""
    found = list(answers(task.clip, [task.asked], task.name, task.embeddings, _kept))
    return pl.concat(found)


def answers(
    clip: Clip, todo: Iterable[Asked], name: str, embeddings: bool, load: Callable[[Clip], _Model] | None = None
) -> Iterator[pl.DataFrame]:
    """A batch of answers after the other; the model is loaded when there is something to ask.

    The similarity is the cosine, its mean over a sample's images.

    Null without images or text, or where an image does not decode. Raises ScoreError when the model cannot be loaded.
    """
    model = None
    with ThreadPoolExecutor(DECODERS) as threads:
        for batch in (batch for asked in todo for batch in batches(asked, clip.batch)):
            model = model or (load or _Model)(clip)
            pictures = list(threads.map(lambda images: _decoded(images, clip.max_pixels), batch.images))
            found = dict(zip(columns(name, True), _fits(model, pictures, batch.texts), strict=True))
            table = pl.DataFrame({"key": batch.keys, **found})
            yield table.select("key", *columns(name, embeddings))


def _decoded(images: Sequence[bytes], max_pixels: int) -> list[Any] | None:
    try:
        return [load_rgb(data, max_pixels) for data in images] or None
    except BadImage:
        return None


def _fits(
    model: _Model, pictures: Sequence[list[Any] | None], texts: Sequence[str]
) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Similarities and embeddings of n samples; of the image embedding the mean over a sample's images."""
    some = [i for i, (images, text) in enumerate(zip(pictures, texts, strict=True)) if images and text.strip()]
    flat = [image for i in some for image in pictures[i] or []]
    owner = np.repeat(np.arange(len(some)), [len(pictures[i] or []) for i in some])
    if not some:
        none = pl.Series([None] * len(texts), dtype=EMBEDDING)
        return pl.Series([None] * len(texts), dtype=pl.Float32), none, none
    of_images, of_texts = model.images(flat), model.texts([texts[i] for i in some])
    counts = np.bincount(owner)
    similarity = np.bincount(owner, (of_images * of_texts[owner]).sum(axis=1)) / counts
    mean = np.zeros_like(of_texts)
    np.add.at(mean, owner, of_images)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    places = np.array(some)
    return (
        _spread(similarity.tolist(), places, len(texts), pl.Float32()),
        _spread(mean.tolist(), places, len(texts), EMBEDDING),
        _spread(of_texts.tolist(), places, len(texts), EMBEDDING),
    )


def _spread(values: list[Any], places: np.ndarray, count: int, kind: pl.DataType) -> pl.Series:
    full: list[Any] = [None] * count
    for place, value in zip(places.tolist(), values, strict=True):
        full[place] = value
    return pl.Series(full, dtype=kind)


class _Model:
    """The model on its device; embeddings have length one."""

    def __init__(self, clip: Clip) -> None:
        try:
            import open_clip
            import torch
        except ImportError as error:
            raise ScoreError(f"CLIP needs the extra [clip]: pip install 'mindvl[clip]' ({error})") from error
        except RuntimeError as error:
            raise ScoreError(f"open_clip does not load: {error}; is torchvision the one for this torch?") from error
        self._torch = torch
        self._device = _device(clip.device, torch)
        try:
            self._model, _, self._prepare = open_clip.create_model_and_transforms(
                clip.model, pretrained=clip.weights, device=self._device
            )
            self._tokenise = open_clip.get_tokenizer(clip.model)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise ScoreError(f"the CLIP model {clip.model} does not load: {error}") from error
        self._model.eval()

    def images(self, pictures: Sequence[Any]) -> np.ndarray:
        """float32 [n, width]"""
        pixels = self._torch.stack([self._prepare(picture) for picture in pictures])
        return self._embedded(self._model.encode_image, pixels)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, width]; what is past the model's context is cut."""
        return self._embedded(self._model.encode_text, self._tokenise(list(texts)))

    def _embedded(self, encode: Any, inputs: Any) -> np.ndarray:
        with self._torch.inference_mode():
            found: np.ndarray = encode(inputs.to(self._device), normalize=True).float().cpu().numpy()
        return found


@functools.lru_cache(maxsize=1)
def _kept(clip: Clip) -> _Model:
    return _Model(clip)


def _device(name: str, torch: Any) -> str:
    if name == "npu":
        import importlib

        try:
            importlib.import_module("torch_npu")
        except ImportError as error:
            raise ScoreError("device npu needs the extra [npu] and its vendor's runtime") from error
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def model_files(clip: Clip) -> list[Path]:
    """The files that the model is read from, where they are local: what its scores depend on."""
    places = [clip.model.removeprefix("local-dir:"), clip.weights or ""]
    return [Path(place) for place in places if place and Path(place).exists()]

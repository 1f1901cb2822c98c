"""The weights of a checkpoint as whole tensors, put together one at a time from the pieces that ranks saved."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mindvl_train.weights.tensor_files import TensorFileError

# Where torch's distributed checkpoint notes, in a file's header, at which index of the whole tensor a piece begins.
HEADER, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


@dataclass(frozen=True)
class Piece:
    """One rank's part of a tensor: the file it is in and where it lies."""

    path: Path
    place: tuple[slice, ...]


@dataclass(frozen=True)
class SavedWeights(Mapping[str, Tensor]):
    """Tensors by name; their shapes are known without reading them."""

    pieces: Mapping[str, tuple[Piece, ...]]

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        stops = zip(*([part.stop for part in piece.place] for piece in self.pieces[name]), strict=True)
        return tuple(max(each) for each in stops)

    def __getitem__(self, name: str) -> Tensor:
        parts = [(piece.place, _read(piece.path, name)) for piece in self.pieces[name]]
        whole = torch.empty(self.shape(name), dtype=parts[0][1].dtype)
        for place, part in parts:
            whole[place] = part
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)


def open_saved(folder: Path) -> SavedWeights:
    """The tensors of a checkpoint's `weights/` folder.

    Raises:
        TensorFileError: there are none, or a file is damaged.
    """
    found: dict[str, list[Piece]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                offsets = json.loads((file.metadata() or {}).get(HEADER, "{}"))
                for name in sorted(file.keys()):
                    found.setdefault(name, []).append(Piece(path, _place(file, name, offsets)))
        except (OSError, ValueError, SafetensorError) as error:
            raise TensorFileError(f"{path}: cannot be read ({error}); take another checkpoint") from error
    if not found:
        raise TensorFileError(f"{folder}: holds no weights; give a checkpoint of a run")
    return SavedWeights({name: tuple(pieces) for name, pieces in sorted(found.items())})


def _place(file: Any, name: str, offsets: Mapping[str, Any]) -> tuple[slice, ...]:
    shape = file.get_slice(name).get_shape()
    begins = offsets[name][OFFSETS] if name in offsets else [0] * len(shape)
    return tuple(slice(begin, begin + size) for begin, size in zip(begins, shape, strict=True))


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor

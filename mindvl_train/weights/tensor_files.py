"""Tensors spread over safetensors files: read one at a time, written a file at a time.

No process ever holds the whole of a large model: a tensor is mapped from its file when it is asked for.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mindvl_data.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FILE_BYTES = 4 << 30


class TensorFileError(UserError):
    """A folder without readable weights; says which file is missing or damaged."""


@dataclass(frozen=True, kw_only=True)
class TensorFiles(Mapping[str, Tensor]):
    """Tensors by name; their shapes and types are known without reading them.

    Attributes:
        files: for every name the file that holds it.
        shapes: of every tensor.
        dtypes: of every tensor, as safetensors calls them (`F32`, `BF16`, `F8_E4M3`).
        stored: what a tensor is called in its file, where that is not its name.
    """

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    stored: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(self.stored.get(name, name))
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def renamed(self, rename: Callable[[str], str]) -> "TensorFiles":
        """The same under other names.

        Raises:
            TensorFileError: two tensors would have one name.
        """
        stored = {rename(name): name for name in self.files}
        if len(stored) < len(self.files):
            twice = next(name for name in self.files if stored[rename(name)] != name)
            raise TensorFileError(f"{self.files[twice]}: {twice} and {stored[rename(twice)]} are one tensor's names")
        return TensorFiles(
            files={new: self.files[old] for new, old in stored.items()},
            shapes={new: self.shapes[old] for new, old in stored.items()},
            dtypes={new: self.dtypes[old] for new, old in stored.items()},
            stored={new: self.stored.get(old, old) for new, old in stored.items() if new != old},
        )


def open_folder(folder: Path) -> TensorFiles:
    """The tensors of a folder as transformers writes it: one file, or several with an index.

    Raises:
        TensorFileError: the folder has none, or one of them is missing or damaged.
    """
    if (folder / INDEX).exists():
        return open_files([folder / name for name in _listed(folder / INDEX)])
    if (folder / SINGLE).exists():
        return open_files([folder / SINGLE])
    raise TensorFileError(f"{folder}: has neither {SINGLE} nor {INDEX}; {_advice(folder)}")


def _advice(folder: Path) -> str:
    """What to do about a folder without safetensors."""
    if (folder / "adapter_config.json").exists():
        return "it holds an adapter: merge it into its model (peft: `merge_and_unload`), save that and import it"
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickled:
        return (
            f"{pickled[0]} is a pickle, which nobody here opens; load it with transformers where you trust it, and "
            "save it with save_pretrained, which writes safetensors"
        )
    return "give a folder of safetensors weights"


def _listed(index: Path) -> list[str]:
    """The files that an index names, sorted; they lie beside it."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise TensorFileError(f"{index}: is no index of weights ({error!r}); fetch the folder again") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise TensorFileError(f"{index}: names {outside[0]!r}, which is not a file beside it; fetch the folder again")
    return names


def open_files(paths: Iterable[Path]) -> TensorFiles:
    """The tensors of these files.

    Raises:
        TensorFileError: one of them is missing or damaged.
    """
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 -- no mapping: a handle with a method of that name
                    header = file.get_slice(name)
                    files[name], shapes[name], dtypes[name] = path, tuple(header.get_shape()), header.get_dtype()
        except (OSError, SafetensorError) as error:
            raise TensorFileError(f"{path}: cannot be read ({error}); fetch the folder again") from error
    return TensorFiles(files=files, shapes=shapes, dtypes=dtypes)


def write_folder(folder: Path, tensors: Iterable[tuple[str, Tensor]], file_bytes: int = FILE_BYTES) -> list[Path]:
    """Writes tensors in their order as transformers does; a file is closed once it would pass `file_bytes`."""
    weight_map: dict[str, int] = {}
    waiting: dict[str, Tensor] = {}
    total_size = written = 0
    for name, tensor in tensors:
        if waiting and sum(map(_size, waiting.values())) + _size(tensor) > file_bytes:
            _write(folder, written, waiting)
            waiting, written = {}, written + 1
        waiting[name], weight_map[name] = tensor, written
        total_size += _size(tensor)
    _write(folder, written, waiting)
    return _name(folder, written + 1, weight_map, total_size)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _write(folder: Path, number: int, tensors: Mapping[str, Tensor]) -> None:
    path = folder / f"{number}.unfinished"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _name(folder: Path, count: int, weight_map: Mapping[str, int], total_size: int) -> list[Path]:
    """Gives the files their names, which tell how many there are, and writes the index."""
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)] if count > 1 else [SINGLE]
    for number, name in enumerate(names):
        (folder / f"{number}.unfinished").rename(folder / name)
    if count > 1:
        where = {name: names[number] for name, number in sorted(weight_map.items())}
        index = {"metadata": {"total_size": total_size}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return [folder / name for name in names]

"""Published folders → a model folder under our names; a tensor at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from mindvl_train import plugins
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.initialise import Draws
from mindvl_train.models.spec import ModelSpec
from mindvl_train.weights.durable import new_folder
from mindvl_train.weights.imported import PUBLISHED, write_description
from mindvl_train.weights.processing import of_published, write_processing
from mindvl_train.weights.published.family import Joint, Language, Naming, Origin, PublishedError, Vision, plain
from mindvl_train.weights.published.folder import DTYPES, PublishedFolder, copy_small_files, open_published
from mindvl_train.weights.published.known_keys import check_language, check_vision
from mindvl_train.weights.tensor_files import TensorFiles, open_files, write_folder

# What an export of a combination without a class of its own consists of.
LANGUAGE, VISION, PROJECTOR = "language", "vision", "projector.safetensors"
SHOWN_PROBLEMS = 20
# Those of a joint folder of which the other half is taken.
VISION_TENSORS = ("visual.*", "model.visual.*")
LANGUAGE_TENSORS = ("lm_head.*", *(f"model.{name}.*" for name in ("language_model", "layers", "embed_tokens", "norm")))
# Used in float32, where a step of bfloat16 would be larger than what is learnt in one.
KEPT_WIDE = ("e_score_correction_bias", "A_log")


@dataclass(frozen=True)
class Part:
    """Where one of `vision`, `projector` and `decoder` comes from."""

    path: Path
    tensors: TensorFiles
    name: Naming


@dataclass(frozen=True)
class Sources:
    """What a model is made of.

    Attributes:
        language: the folder of the decoder.
        vision: the folder of the tower; the same object for a joint model.
        model: its name among the model plugins.
        config: the model's.
        parts: by the first word of a parameter's name; what is absent is drawn.
        unused: globs of published tensors that have no place in the model, by folder.
    """

    language: PublishedFolder
    vision: PublishedFolder
    model: str
    config: BaseModel
    parts: dict[str, Part]
    unused: dict[Path, tuple[str, ...]]


@dataclass(frozen=True)
class ImportReport:
    """What was imported: parameters in each part, and the parts that nothing published knew."""

    parameters: dict[str, int]
    drawn: tuple[str, ...]


def import_model(source: Path, vision: Path | None, out: Path, seed: int, dtype: str | None = None) -> ImportReport:
    """Writes a model folder.

    Args:
        source: a published vision-language model, a language model, or what `export` wrote.
        vision: the folder whose vision tower to take instead; the projector is then drawn.
        out: the model folder; must not exist.
        seed: of the projector's draw.
        dtype: a name of `DTYPES` to store the weights in; None: as each was published, FP8 in the type that its
            `config.json` states.

    Raises:
        PublishedError: a folder does not fit; lists the tensors with their shapes.
    """
    if out.exists():
        raise PublishedError(f"{out} exists already; give another --out")
    check_dtype(dtype)
    sources = _open_sources(source, vision)
    with torch.device("meta"):
        spec: ModelSpec = plugins.load(plugins.MODELS, sources.model)
        model = spec.build(sources.config, resolve(KernelConfig(), "cpu"))
    origins = _check(model, sources)
    language = sources.language
    with new_folder(out) as unfinished:
        files = write_folder(unfinished, _tensors(model, origins, Draws(model, seed), DTYPES[dtype] if dtype else None))
        copy_small_files(language.path, unfinished / PUBLISHED / LANGUAGE)
        if sources.vision is not language:
            copy_small_files(sources.vision.path, unfinished / PUBLISHED / VISION)
        write_processing(unfinished, of_published(source, *_homes(source), sources.vision.path))
        described = {"name": sources.model, "config": sources.config.model_dump(mode="json")}
        write_description(unfinished, described, language.special_ids, language.tokenizer_sha256, files)
    return _report(model, sources)


def _homes(source: Path) -> list[Path]:
    """The folders of a model in parts, where its processor may lie."""
    return [source / part for part in (LANGUAGE, VISION) if (source / part).is_dir()]


def check_dtype(dtype: str | None) -> None:
    """Raises PublishedError where weights cannot be written in a type of that name."""
    if dtype is not None and dtype not in DTYPES:
        raise PublishedError(f"--dtype {dtype}: weights are written in {', '.join(DTYPES)}")


def _open_sources(source: Path, vision: Path | None) -> Sources:
    if vision is not None:
        return _sources(open_published(source), open_published(vision), None)
    if (source / LANGUAGE).is_dir() and (source / VISION).is_dir():
        projector = Part(source / PROJECTOR, open_files([source / PROJECTOR]), plain(""))
        return _sources(open_published(source / LANGUAGE), open_published(source / VISION), projector)
    whole = open_published(source)
    if not isinstance(whole.family, Joint):
        raise PublishedError(f"{source}: has no vision tower; give the folder of one with --vision")
    return _sources(whole, whole, Part(whole.path, whole.tensors, whole.family.vision.name_projector))


def _sources(language: PublishedFolder, vision: PublishedFolder, projector: Part | None) -> Sources:
    decoder = language.family.language if isinstance(language.family, Joint) else language.family
    tower = vision.family.vision if isinstance(vision.family, Joint) else vision.family
    if not isinstance(decoder, Language):
        raise PublishedError(f"{language.path}: is no language model; give its folder with --vision")
    if not isinstance(tower, Vision):
        raise PublishedError(f"{vision.path}: has no vision tower")
    check_language(language.config, decoder, joint=isinstance(language.family, Joint))
    check_vision(vision.config, tower)
    try:
        decoder_config = decoder.read(language.config)
        spec: ModelSpec = plugins.load(plugins.MODELS, decoder.model)
        config = spec.config(vision=tower.read(vision.config), decoder=decoder_config)
    except KeyError as error:
        raise PublishedError(f"{language.path} or {vision.path}: config.json has no {error}") from error
    except (ValidationError, TypeError, AttributeError) as error:
        said = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise PublishedError(f"{language.path} or {vision.path}: config.json cannot be used ({said})") from error
    parts = {
        "decoder": Part(language.path, language.tensors, decoder.naming(decoder_config, language.tensors)),
        "vision": Part(vision.path, vision.tensors, tower.name_vision),
    } | ({"projector": projector} if projector else {})
    unused = {language.path: decoder.unused(decoder_config)}
    # What the published tower merges with has no place beside a projector of our own.
    unused[vision.path] = (*unused.get(vision.path, ()), "*merger*")
    if vision is not language:
        unused[language.path] += VISION_TENSORS if isinstance(language.family, Joint) else ()
        unused[vision.path] += LANGUAGE_TENSORS if isinstance(vision.family, Joint) else ()
    return Sources(language, vision, decoder.model, config, parts, unused)


def _check(model: nn.Module, sources: Sources) -> dict[str, tuple[Part, Origin]]:
    """Every parameter's origin.

    Raises:
        PublishedError: a tensor is missing, of another shape, or belongs nowhere.
    """
    origins: dict[str, tuple[Part, Origin]] = {}
    for name, parameter in model.named_parameters():
        word, ours = name.split(".", 1)
        if word in sources.parts:
            part = sources.parts[word]
            origins[name] = part, part.name(ours, tuple(parameter.shape))
    problems = [*_misfits(origins), *_strangers(origins, sources)]
    if problems:
        more = [f"… and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        raise PublishedError(
            "\n".join(["the weights do not fit their config.json:", *problems[:SHOWN_PROBLEMS], *more])
        )
    return origins


def _misfits(origins: dict[str, tuple[Part, Origin]]) -> Iterator[str]:
    for part, origin in origins.values():
        for name in origin.names:
            found = part.tensors.shapes.get(name)
            if found is None:
                yield f"{part.path}: {name} {list(origin.shape)} is missing"
            elif not origin.fits(found):
                yield f"{part.path}: {name} is {list(found)}, expected {list(origin.shape)}"


def _strangers(origins: dict[str, tuple[Part, Origin]], sources: Sources) -> Iterator[str]:
    used = {(part.path, name) for part, origin in origins.values() for name in origin.names}
    for part in sources.parts.values():
        for name, shape in part.tensors.shapes.items():
            allowed = any(fnmatchcase(name, glob) for glob in sources.unused.get(part.path, ()))
            if (part.path, name) not in used and not allowed:
                yield f"{part.path}: {name} {list(shape)} has no place in the model"


def _tensors(
    model: nn.Module, origins: dict[str, tuple[Part, Origin]], draws: Draws, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        kept = torch.float32 if name.endswith(KEPT_WIDE) else dtype
        tensor = _joined(*origins[name], kept) if name in origins else draws[name]
        yield name, tensor.to(kept or tensor.dtype).reshape(parameter.shape).contiguous()


def _joined(part: Part, origin: Origin, dtype: torch.dtype | None) -> Tensor:
    """The published tensors one behind the other, with no more than one of them in memory besides."""
    first = part.tensors[origin.names[0]]
    if len(origin.names) == 1:
        return origin.ours(first)
    joined = torch.empty((len(origin.names), *origin.shape), dtype=dtype or first.dtype)
    for target, name in zip(joined, origin.names, strict=True):
        target.copy_(part.tensors[name])
    return joined


def _report(model: nn.Module, sources: Sources) -> ImportReport:
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        word = name.split(".", 1)[0]
        counts[word] = counts.get(word, 0) + parameter.numel()
    return ImportReport(counts, tuple(word for word in counts if word not in sources.parts))

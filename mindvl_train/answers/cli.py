"""The commands that ask a trained model: evaluate, generate and resolve."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, track
from rich.table import Table

from mindvl_data.errors import UserError
from mindvl_data.runtime.shown import cleaned
from mindvl_data.runtime.terminal import open_console
from mindvl_data.stream import PackStream
from mindvl_train.terminal import or_exit

if TYPE_CHECKING:
    from mindvl_train.answers.evaluation import Score
    from mindvl_train.answers.opened import Opened
    from mindvl_train.answers.resolution import Point

# From 4 to 256 and from 256 to 1,280 tokens of 28 × 28 pixels.
LEAST = "3136,12544,50176,200704"
MOST = "200704,401408,602112,1003520"

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a checkpoint, or an imported or exported folder.")]
Accelerator = Annotated[str, typer.Option("--accelerator", help="Where it runs.")]
MediaRoot = Annotated[Path | None, typer.Option("--media-root", help="The folder that referenced pictures lie below.")]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", metavar="PREFIX", help="A URL or folder of pictures that may be opened.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")]


def evaluate(
    source: Model,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A held-out set.")],
    media_root: MediaRoot = None,
    allow: Allow = None,
    accelerator: Accelerator = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Prints the scores as JSON, for a program.")] = False,
    debug: Debug = False,
) -> None:
    """Loss and right answers on a held-out set, by source and by kind."""
    or_exit(lambda: _evaluate(source, _stream(manifest, media_root, allow), accelerator, as_json), debug)


def generate(
    source: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the user says.")],
    image: Annotated[Path | None, typer.Option("--image", help="A picture that stands before it.")] = None,
    video: Annotated[Path | None, typer.Option("--video", help="A clip that stands before it.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="The data's tokenizer.json, or qwen. [default: the published one]"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Of new tokens.")] = 128,
    accelerator: Accelerator = "auto",
    debug: Debug = False,
) -> None:
    """Answers one prompt about a picture, a clip, both or none, greedily."""
    or_exit(lambda: _generate(source, prompt, (image, video), tokenizer, limit, accelerator), debug)


def resolve(
    source: Model,
    manifest: Annotated[Path, typer.Option("--eval", metavar="MANIFEST", help="A held-out set.")],
    min_pixels: Annotated[str, typer.Option("--min-pixels", metavar="N,N…", help="Lower bounds to try.")] = LEAST,
    max_pixels: Annotated[str, typer.Option("--max-pixels", metavar="N,N…", help="Upper bounds to try.")] = MOST,
    generated: Annotated[
        int, typer.Option("--generate", metavar="TOKENS", min=0, help="Scores generated answers by edit distance.")
    ] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="PNG", help="Draws accuracy by vision tokens.")] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FOLDER", help="The exported folder that gets the best bounds.")
    ] = None,
    media_root: MediaRoot = None,
    allow: Allow = None,
    accelerator: Accelerator = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Prints the points as JSON, for a program.")] = False,
    debug: Debug = False,
) -> None:
    """Searches the bounds on pictures' pixels that answer a held-out set best."""
    bounds = (min_pixels, max_pixels)
    written = (plot, write)
    or_exit(
        lambda: _resolve(
            source, _stream(manifest, media_root, allow), bounds, generated, written, accelerator, as_json
        ),
        debug,
    )


def _stream(manifest: Path, media_root: Path | None, allow: list[str] | None) -> PackStream:
    return PackStream(manifest, media_root=media_root, allow=allow or [])


def _evaluate(source: Path, stream: PackStream, accelerator: str, as_json: bool) -> None:
    from mindvl_train.answers.evaluation import by_kind, evaluate, total

    opened = _held_out(source, stream, accelerator)
    console = open_console(stderr=True)
    packs = track(stream, "evaluate", stream.manifest.num_packs, console=console, disable=not console.is_terminal)
    sources = evaluate(opened.model, packs, opened.layout, opened.device)
    kinds, whole = by_kind(sources, stream.manifest.data["sources"]), total(sources)
    if not whole.targets:
        raise UserError(f"{stream.manifest.where}: no token of it has a loss, so it scores nothing; give another set")
    if as_json:
        groups = {"sources": sources, "kinds": kinds}
        scores = {name: {each: score.as_json() for each, score in group.items()} for name, group in groups.items()}
        print(json.dumps({"manifest": stream.manifest.id, "total": whole.as_json(), **scores}))
        return
    table = Table(title=stream.manifest.where, title_justify="left")
    table.add_column("")
    table.add_column("")
    for column in ("samples", "loss", "answers", "right"):
        table.add_column(column, justify="right", no_wrap=True)
    _rows(table, "source", sources)
    _rows(table, "kind", kinds)
    _rows(table, "", {"everything": whole})
    open_console(markup=True).print(table)


def _rows(table: Table, group: str, scores: "dict[str, Score]") -> None:
    for name, score in scores.items():
        counts = (f"{score.samples:,}", f"{score.loss:.4f}", f"{score.answers:,}", f"{score.accuracy:.1%}")
        table.add_row(group, escape(name), *counts)


def _generate(
    source: Path,
    prompt: str,
    shown: tuple[Path | None, Path | None],
    tokenizer: Path | None,
    limit: int,
    accelerator: str,
) -> None:
    from mindvl_train.answers.asking import answer
    from mindvl_train.answers.opened import open_model

    image, video = shown
    print(cleaned(answer(open_model(source, accelerator), tokenizer, prompt, image, limit, video)))


def _resolve(
    source: Path,
    stream: PackStream,
    bounds: tuple[str, str],
    generated: int,
    out: tuple[Path | None, Path | None],
    accelerator: str,
    as_json: bool,
) -> None:
    from mindvl_train.answers import resolution

    least, most = (_numbers(text) for text in bounds)
    opened = _held_out(source, stream, accelerator)
    pairs = resolution.resolutions(opened, least, most)
    console = open_console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("bounds", total=len(pairs))
        points = resolution.search(opened, stream.reopened, pairs, generated, lambda _: progress.advance(task))
    chosen = resolution.best(points)
    plot, export = out
    if plot:
        resolution.plot(points, plot)
    written = resolution.write_bounds(export, chosen) if export else None
    if as_json:
        print(json.dumps({"points": [point.as_json() for point in points], "best": chosen.as_json()}))
        return
    _print_points(points, chosen)
    for path in (plot, written):
        if path:
            open_console(markup=True).print(f"written: {escape(str(path))}", soft_wrap=True)


def _print_points(points: "list[Point]", chosen: "Point") -> None:
    table = Table(title="bounds on the pixels of a picture", title_justify="left")
    for column in ("min_pixels", "max_pixels", "vision tokens a sample", "loss", "right", "similarity", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        similarity = "–" if point.similarity is None else f"{point.similarity:.3f}"
        scores = (f"{point.vision_tokens:,.1f}", f"{point.score.loss:.4f}", f"{point.score.accuracy:.1%}", similarity)
        table.add_row(f"{point.min_pixels:,}", f"{point.max_pixels:,}", *scores, "best" if point is chosen else "")
    open_console(markup=True).print(table)


def _held_out(source: Path, stream: PackStream, accelerator: str) -> "Opened":
    from mindvl_train.answers.opened import open_model

    return open_model(source, accelerator).for_set(stream.manifest)


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r}: give whole numbers with commas between them") from None

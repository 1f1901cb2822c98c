"""The command line; with `progress`, `terminal` and `answers/cli` the only files that print."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mindvl_data.runtime.terminal import open_console
from mindvl_train.answers import cli as answers
from mindvl_train.progress import TerminalLogger, print_summary
from mindvl_train.terminal import is_first, or_exit

GIB = 2**30

app = typer.Typer(
    name="mindvl-train",
    help="Trains a vision-language model on packed shards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    train_yaml: Annotated[Path, typer.Argument(metavar="TRAIN_YAML", help="The run's configuration.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Replaces a value of the YAML; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where checkpoints and metrics go. [default: runs/<name>]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the summary as JSON, for a program.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Trains through all stages, or goes on from the last checkpoint of the same run."""
    or_exit(lambda: _run(train_yaml, set_ or [], out, as_json), debug)


@app.command()
def plan(
    train_yaml: Annotated[Path, typer.Argument(metavar="TRAIN_YAML", help="The run's configuration.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Replaces a value of the YAML; may be repeated."),
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Over which the model is sharded.")] = 1,
    memory: Annotated[float, typer.Option("--memory", min=0, help="GiB of one rank.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the plan as JSON, for a program.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Says what a run would take, and whether it fits; needs no accelerator and no memory for the model."""
    or_exit(lambda: _plan(train_yaml, set_ or [], ranks, memory, as_json), debug)


@app.command()
def sweep(
    train_yaml: Annotated[Path, typer.Argument(metavar="TRAIN_YAML", help="A small run with a mixture of sets.")],
    mixtures: Annotated[
        Path, typer.Option("--mixtures", metavar="YAML", help="What is tried and scored: see docs/mixtures.md.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Replaces a value of the run's YAML; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where runs and the result go. [default: sweeps/<name>]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the result as JSON, for a program.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Tries mixtures on small runs, scores them on held-out sets and proposes shares; goes on where it was ended."""
    or_exit(lambda: _sweep(train_yaml, mixtures, set_ or [], out, as_json), debug)


@app.command()
def average(
    folders: Annotated[list[Path], typer.Argument(metavar="CKPT...", help="Runs, checkpoints or model folders.")],
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.")],
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="A,B,...", help="What each counts for. [default: equal]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints what was averaged as JSON, for a program.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Averages weights, as of trainings at several sequence lengths; streamed, a tensor at a time."""
    or_exit(lambda: _average(folders, weights, out, as_json), debug)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, also of one at work.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The HTML file to write. [default: RUN/report.html]")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", metavar="FILE", help="tokenizer.json, or qwen, to read answers with. [default: the data's]"
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Writes one HTML file to look at: losses by stage and source, speed, memory, answers at every checkpoint."""
    or_exit(lambda: _report(folder, out, tokenizer), debug)


@app.command()
def schema(
    reference: Annotated[bool, typer.Option("--reference", help="Prints the keys as tables, for a person.")] = False,
) -> None:
    """Prints the JSON Schema of a run's YAML, for completion in an editor."""
    from mindvl_train.config import reference as keys

    print(keys.reference() if reference else json.dumps(keys.json_schema(), indent=2, ensure_ascii=False))


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A published model, or what `export` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.")],
    vision: Annotated[
        Path | None,
        typer.Option("--vision", metavar="FOLDER", help="Takes the vision tower from here; the projector is drawn."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the projector's draw.")] = 0,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16. [default: as published]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints what was imported as JSON, for a program.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Brings published weights under our names; a run begins from them with `model: {name: vlm, weights: OUT}`."""
    or_exit(lambda: _import(folder, vision, out, seed, dtype, as_json), debug)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run, one of its checkpoints, or a model folder.")],
    out: Annotated[Path, typer.Option("--out", help="The published folder to write.")],
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16. [default: as it was published]")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", metavar="FILE", help="tokenizer.json of the data, or qwen, for a model that was drawn."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints what was written as JSON, for a program.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows the traceback of an error.")] = False,
) -> None:
    """Writes published folders, which transformers opens."""
    or_exit(lambda: _export(folder, out, dtype, tokenizer, as_json), debug)


app.command()(answers.evaluate)
app.command()(answers.generate)
app.command()(answers.resolve)


def main() -> None:
    """The console entry point."""
    app()


def _run(train_yaml: Path, overrides: list[str], out: Path | None, as_json: bool) -> None:
    # Read when torch is imported: threads that spin while they wait take the cores from those that decode, and
    # where other processes share the cores a step takes up to three times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Torch takes seconds to import: not before there is something to train.
    from mindvl_train.config.loading import load_config
    from mindvl_train.loop.run import train

    loaded = load_config(train_yaml, overrides)
    folder = out or Path(loaded.config.out or Path("runs") / loaded.config.name)
    console = open_console(stderr=as_json, markup=True)
    console.quiet = not is_first()
    console.print(f"[bold]{escape(loaded.config.name)}[/bold] → {escape(str(folder))}")
    result = train(loaded, str(train_yaml), folder, [TerminalLogger(console)])
    if as_json and is_first():
        print(json.dumps({**asdict(result), "checkpoint": str(result.checkpoint)}))
    if as_json or not is_first():
        return
    if result.already_finished:
        console.print("this run is finished; nothing to do. Give another --out to train again")
    print_summary(console, result.stages)
    console.print(f"checkpoint: {escape(str(result.checkpoint))}", soft_wrap=True)
    console.print(f"metrics:    {escape(str(folder / 'metrics.jsonl'))}", soft_wrap=True)


def _plan(train_yaml: Path, overrides: list[str], ranks: int, memory: float, as_json: bool) -> None:
    from mindvl_train.config.loading import load_config
    from mindvl_train.planning.plan import make_plan

    loaded = load_config(train_yaml, overrides)
    made = make_plan(loaded, str(train_yaml), ranks, memory * GIB)
    if as_json:
        stages = [asdict(stage) | {"fits": stage.total <= memory * GIB} for stage in made.stages]
        print(json.dumps(asdict(made) | {"stages": stages}))
        return
    console = open_console(markup=True)
    console.print(f"{made.parameters:,} parameters, {made.active:,} of them active for a token", highlight=False)
    used = f"kept in float32, used in {loaded.config.precision}"
    title = f"GiB on each of {ranks} ranks of {memory:g} GiB, everything sharded, {used}"
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for column in ("trained", "weights", "gradients", "optimizer", "gathered", "activations", "sum", "GFLOPs a token"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("fits")
    for stage in made.stages:
        state = (stage.weights, stage.gradients, stage.optimizer)
        parts = (*state, stage.gathered, stage.activations, stage.total)
        sizes = [f"{part / GIB:,.2f}" for part in parts]
        fits = "yes" if stage.total <= memory * GIB else "no"
        table.add_row(stage.name, f"{stage.trained:,}", *sizes, f"{stage.flops_per_token / 1e9:,.3g}", fits)
    console.print(table)
    for proposal in made.meshes:
        held = f"{(proposal.state + proposal.gathered + proposal.activations) / GIB:,.2f} GiB a rank"
        console.print(f"mesh: {proposal.sizes}: {held}, sends {proposal.sent / GIB:,.2f} GiB a step", highlight=False)
    if not made.meshes:
        advice = "more ranks, a smaller micro_batch, or less to train"
        console.print(f"no mesh of {ranks} ranks fits {memory:g} GiB: {advice}")


def _sweep(train_yaml: Path, mixtures: Path, overrides: list[str], out: Path | None, as_json: bool) -> None:
    from mindvl_train.config.loading import load_config
    from mindvl_train.sweeps.settings import load_settings
    from mindvl_train.sweeps.sweep import sweep as tried

    settings = load_settings(mixtures)
    folder = out or Path("sweeps") / load_config(train_yaml, overrides).config.name
    console = open_console(stderr=as_json, markup=True)
    console.quiet = not is_first()

    def told(run: Mapping[str, Any]) -> None:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in run["shares"].items())
        console.print(escape(f"{shares}; seed {run['seed']}: held-out loss {run['loss']:.4f}"), soft_wrap=True)

    found = tried(train_yaml, settings, overrides, folder, told)
    if as_json and is_first():
        print(json.dumps(found))
    if as_json:
        return
    table = Table(title=f"proposed for stages.{found['stage']}.mixture", title_justify="left")
    table.add_column("set")
    for column in ("share", "±"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, each in found["proposal"]["shares"].items():
        deviation = "–" if each["deviation"] is None else f"{each['deviation']:.1%}"
        table.add_row(escape(name), f"{each['share']:.1%}", deviation)
    console.print(table)
    for path in (found["train"], found.get("recipe")):
        if path:
            console.print(escape(path), soft_wrap=True)


def _report(folder: Path, out: Path | None, tokenizer: Path | None) -> None:
    from mindvl_train.report import write_report

    open_console().print(str(write_report(folder, out, tokenizer)), soft_wrap=True)


def _average(folders: list[Path], weights: str | None, out: Path, as_json: bool) -> None:
    from mindvl_train.weights.average import average_folders

    parents = average_folders(folders, weights.split(",") if weights else None, out)
    if as_json:
        print(json.dumps({"out": str(out), "parents": parents}))
        return
    console = open_console(markup=True)
    for parent in parents:
        console.print(f"{parent['share']:.4g} · {escape(parent['folder'])}", soft_wrap=True, highlight=False)
    console.print(escape(str(out)), soft_wrap=True)


def _import(folder: Path, vision: Path | None, out: Path, seed: int, dtype: str | None, as_json: bool) -> None:
    from mindvl_train.weights.published.importing import import_model

    report = import_model(folder, vision, out, seed, dtype)
    if as_json:
        print(json.dumps({"out": str(out), **asdict(report)}))
        return
    parts = ", ".join(f"{part} {count:,}" for part, count in report.parameters.items())
    console = open_console(markup=True)
    console.print(f"{escape(str(out))}: {sum(report.parameters.values()):,} parameters ({parts})", soft_wrap=True)
    if report.drawn:
        console.print(f"{' and '.join(report.drawn)}: nothing published fits between these; drawn with seed {seed}")
    console.print(f"begin a run from it with model: {{name: vlm, weights: {escape(str(out))}}}", soft_wrap=True)


def _export(folder: Path, out: Path, dtype: str | None, tokenizer: Path | None, as_json: bool) -> None:
    from mindvl_train.weights.published.exporting import export_model

    report = export_model(folder, out, dtype, tokenizer)
    if as_json:
        print(json.dumps({"out": str(out), **asdict(report)}))
        return
    console = open_console(markup=True)
    if not report.tokenizer:
        console.print("no tokenizer is with it: --tokenizer adds that of the run's data, its template and a processor")
    for written in report.written:
        console.print(escape(str(out / written)), soft_wrap=True)

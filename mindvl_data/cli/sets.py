"""The commands that take a packed set or its build folder: show, report, explain, diff, verify, export and gc."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from mindvl_data.cli.options import (
    Address,
    Allow,
    Debug,
    EngineName,
    Json,
    ManifestPath,
    MediaRoot,
    Workers,
    chosen_engine,
)
from mindvl_data.errors import UserError
from mindvl_data.runtime.progress import open_progress
from mindvl_data.runtime.shown import cleaned
from mindvl_data.runtime.terminal import errors, open_console, print_json, reported, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress, TaskID

    from mindvl_data.engines import Engine
    from mindvl_data.manifest import Manifest
    from mindvl_data.manifest.referenced import Runner
    from mindvl_data.media import Access

PICTURED_PACKS = 12


def show(
    manifest: ManifestPath,
    pack: Annotated[
        int | None, typer.Option(min=0, help="Show this pack: segments, text, grids, what is learnt.")
    ] = None,
    media_root: MediaRoot = None,
    allow: Allow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a manifest, or one pack of it."""
    with reported(debug):
        from mindvl_data.manifest import read_manifest
        from mindvl_data.media import access_to

        found = read_manifest(manifest)
        if pack is not None:
            _show_pack(found, pack, access_to(found.build_folder, media_root, allow or []), as_json)
        elif as_json:
            print_json(found.data)
        else:
            from mindvl_data.inspect import stages

            open_console().print(stages.manifest(found.data, found.where))
            _show_picture(found)


def report(
    place: Annotated[
        str, typer.Argument(metavar="BUILD", help="A build folder; or a manifest.json, its folder or its URL.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The HTML file to write; by default report.html in the folder.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER", help="An earlier build or manifest: both side by side.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML file to look at: warnings, funnel, mixture, histograms, samples, packs. It needs no network."""
    with reported(debug):
        from mindvl_data.inspect import report as reports
        from mindvl_data.inspect.report.comparison import write_comparison

        path = write_comparison(compare, place, out) if compare else reports.write_report(place, out)
        open_console().print(shown(path), soft_wrap=True)


def explain(
    manifest: ManifestPath,
    sample: Annotated[
        str | None, typer.Argument(metavar="[SAMPLE]", help="A sample id in hexadecimal, a uid, or a key.")
    ] = None,
    pack: Annotated[int | None, typer.Option(min=0, help="With --token: the sample at this place of a pack.")] = None,
    token: Annotated[int | None, typer.Option(min=0, help="A token of the pack.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell a sample's story: its file and range, what kept or dropped it, where each draw went."""
    with reported(debug):
        from mindvl_data.inspect import explain as stories
        from mindvl_data.inspect.thumbnails import can_show
        from mindvl_data.manifest import read_manifest
        from mindvl_data.media import MediaReader, access_to

        found = read_manifest(manifest)
        if sample is None:
            if pack is None or token is None:
                raise UserError("explain: name a sample, or a place with --pack and --token")
            sample = stories.sample_at(found, pack, token).hex()
        told = stories.stories(found, sample)
        if as_json:
            print_json(told)
        else:
            console = open_console()
            with MediaReader(found.build_folder, access_to(found.build_folder)) as media:
                for story in told:
                    console.print(stories.view(story, media if can_show(console) else None), "")


def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="A manifest; with --samples a build folder, too.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another; or both are recipes.")],
    samples: Annotated[
        bool, typer.Option("--samples", help="Which samples one draws and the other does not, and why.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what changed between two manifests (recipe, sources, funnel, mixture, packing), or between two recipes."""
    with reported(debug):
        from mindvl_data.inspect import changes
        from mindvl_data.manifest import read_manifest

        if samples:
            _diff_samples(str(before), str(after), as_json)
            return
        if {before.suffix, after.suffix} <= {".yaml", ".yml"}:
            _diff_recipes(before, after, as_json)
            return
        a, b = read_manifest(before).data, read_manifest(after).data
        if as_json:
            print_json({"same_data": a["id"] == b["id"], "changes": changes.changes(a, b)})
        else:
            open_console().print(changes.view(a, b))


def _diff_samples(before: str, after: str, as_json: bool) -> None:
    from mindvl_data.inspect import compared

    found = compared.compared(compared.side(before), compared.side(after))
    if as_json:
        print_json(found)
    else:
        open_console().print(compared.view(found))


def _diff_recipes(before: Path, after: Path, as_json: bool) -> None:
    from mindvl_data.inspect import changes
    from mindvl_data.recipe import read_yaml

    a, b = read_yaml(before), read_yaml(after)
    if as_json:
        print_json({"changes": changes.recipe_changes(a, b)})
    else:
        open_console().print(changes.view_recipes(a, b))


def verify(
    manifest: ManifestPath,
    media: Annotated[bool, typer.Option("--media", help="Read and hash every image that the packs point at.")] = False,
    media_root: MediaRoot = None,
    allow: Allow = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Re-hash and re-check every shard, look at every image file pointed at: exit 0, or 1 with what is wrong."""
    with reported(debug, failure=1):
        from mindvl_data.manifest import read_manifest
        from mindvl_data.manifest.verify import files
        from mindvl_data.manifest.verify import verify as checks
        from mindvl_data.media import access_to

        found = read_manifest(manifest)
        access = access_to(found.build_folder, media_root, allow or [])
        results = []
        with open_progress(errors) as bar, chosen_engine(engine, workers, address) as tasks:
            task = bar.add_task("verify", total=files(found))
            tasks.share(None, [found.path] if found.store is None else [])
            for name, problems in checks(found, access, media, _run(tasks, bar, task)):
                results.append({"file": name, "problems": problems})
                bar.update(task, completed=max(len(results), bar.tasks[task].completed))
    bad = [result for result in results if result["problems"]]
    if as_json:
        print_json({"manifest": found.where, "id": found.id, "sound": not bad, "files": results})
    else:
        for result in bad:
            for problem in result["problems"]:
                typer.echo(cleaned(f"{result['file']}: {problem}"))
        if not bad:
            typer.echo(f"sound: {found.num_packs} packs in {len(found.shards)} shards, id {found.id}")
    if bad:
        raise typer.Exit(1)


def export(
    manifest: ManifestPath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; it must not exist yet.")],
    to: Annotated[str, typer.Option(help="webdataset, energon, datasets, mds or uids.")],
    packs: Annotated[
        bool, typer.Option("--packs", help="The packs themselves, not the samples drawn for them.")
    ] = False,
    media_root: MediaRoot = None,
    allow: Allow = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the drawn samples in the mixture's order, or the packs, in a format that other loaders read."""
    with reported(debug):
        from mindvl_data.exports import export as write
        from mindvl_data.manifest import read_manifest

        found = read_manifest(manifest)
        with open_progress(errors) as bar:
            task = bar.add_task(f"export to {to}", total=found.num_packs)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            count = write(found, to, folder, packs, progress, media_root, allow or [])
        if as_json:
            print_json({"folder": str(folder), "format": to, "records": count, "manifest": found.id})
        else:
            open_console().print(f"{count:,} {'packs' if packs else 'samples'} in {folder}")


def gc(
    build: Annotated[Path, typer.Argument(metavar="BUILD", help="A build folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is shown.")] = False,
    sets: Annotated[bool, typer.Option("--sets", help="Packed sets that the recipe has no more, too.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a build folder holds that its last build did not use; with --yes remove it."""
    with reported(debug):
        from mindvl_data.pipeline import gc as collecting

        found = collecting.collect(build, sets) if yes else collecting.garbage(build)
        if as_json:
            items = [item.__dict__ | {"path": shown(item.path.absolute())} for item in found]
            print_json({"removed": yes, "bytes": sum(item.bytes for item in found), "items": items})
            return
        console = open_console()
        for item in found:
            asked = "" if yes or sets or not item.on_request else " (only with --sets)"
            place = shown(item.path.absolute())
            console.print(f"{decimal(item.bytes):>12}  {place}: {item.why}{asked}", soft_wrap=True)
        total = decimal(sum(item.bytes for item in found if yes or sets or not item.on_request))
        console.print(f"{total} {'removed' if yes else 'to remove with --yes'}" if found else "Nothing to remove.")


def _run(engine: Engine, bar: Progress, task: TaskID) -> Runner:
    """The engine's `run`, shown as it goes."""

    def run(function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        def done(finished: int, of: int, note: str = "") -> None:
            bar.update(task, completed=max(finished, bar.tasks[task].completed), note=note)

        return engine.run(function, tasks, done)

    return run


def _show_pack(manifest: Manifest, number: int, access: Access, as_json: bool) -> None:
    from mindvl_data.inspect import packs
    from mindvl_data.manifest import pack_at

    pack, pads = pack_at(manifest, number), manifest.pads
    decode, note = packs.decoder_of(manifest, access)
    if as_json:
        print_json({"pack": number, "segments": packs.segments(pack, pads, decode)})
    else:
        open_console().print(packs.view(pack, pads, decode), note)


def _show_picture(manifest: Manifest) -> None:
    """The first packs as bars, where their shard is at hand (a kept manifest has none beside it)."""
    from mindvl_data.inspect.picture import picture
    from mindvl_data.manifest import packs_of

    packs = list(itertools.islice(packs_of(manifest), PICTURED_PACKS))
    if packs:
        console = open_console()
        console.print("", picture(packs, min(96, console.width - 8)))

"""Pictures on a terminal: right where they are shown, and nowhere else."""

import io

import pytest
from PIL import Image
from rich.console import Console
from rich.style import Style

from mindvl_data.inspect import explain
from mindvl_data.inspect.thumbnails import UPPER_HALF, can_show, cells, thumbnail
from mindvl_data.manifest import pack_at, read_manifest
from mindvl_data.media import MediaReader, access_to
from mindvl_data.pipeline import BuildReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("file", "says", "shows"),
    [
        (Terminal(), {"COLORTERM": "truecolor"}, True),
        (Terminal(), {"COLORTERM": "truecolor", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "xterm-256color"}, False),
        (io.StringIO(), {"COLORTERM": "truecolor", "FORCE_COLOR": "1"}, False),
    ],
)
def test_pictures_are_for_terminals_with_all_colours(file: io.StringIO, says: dict[str, str], shows: bool) -> None:
    assert can_show(Console(file=file, _environ={"TERM": "xterm"} | says)) == shows


def test_a_character_is_two_pixels() -> None:
    picture = Image.new("RGB", (2, 3), (255, 0, 0))
    picture.putpixel((1, 1), (0, 0, 255))
    shown = cells(picture)
    assert shown.plain == f"{UPPER_HALF * 2}\n{UPPER_HALF * 2}"
    styles = [Style.parse(str(span.style)) for span in shown.spans]
    red_on_blue = Style.parse("rgb(255,0,0) on rgb(0,0,255)")
    assert red_on_blue in styles
    assert Style.parse("rgb(255,0,0) on rgb(0,0,0)") in styles


def test_a_large_picture_fits_a_screen() -> None:
    lines = cells(Image.new("RGB", (4000, 1000))).plain.split("\n")
    assert (len(lines), {len(line) for line in lines}) == (8, {64})


def test_explain_shows_pictures_where_it_is_given_what_reads_them(quickstart: BuildReport) -> None:
    manifest = read_manifest(quickstart.out / "multitask-4096")
    number, pack = next((n, pack) for n in range(manifest.num_packs) if (pack := pack_at(manifest, n)).images)
    (story,) = explain.stories(manifest, explain.sample_at(manifest, number, pack.images[0].start).hex())

    def shown(media: MediaReader | None) -> str:
        console = Console(file=Terminal(), width=120)
        console.print(explain.view(story, media))
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    with MediaReader(quickstart.out, access_to(manifest.build_folder)) as media:
        assert UPPER_HALF in shown(media)
        gone = story["images"][0] | {"uri": "gone.png"}
        assert thumbnail(gone, media).plain.startswith("not shown: gone.png")
    assert UPPER_HALF not in shown(None)

"""The picture of packs: readable without colours, and in colours by source."""

import io

from rich.console import Console

from mindvl_data.inspect.picture import picture
from tests.mindvl_data.packs import make_pack


def drawn(width: int, colour: bool = False) -> str:
    packs = [make_pack(0), make_pack(1, lengths=(64,), images=False)]
    console = Console(file=io.StringIO(), width=200, force_terminal=colour, color_system="standard" if colour else None)
    console.print(picture(packs, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_cell_is_a_beginning_or_image_or_text_or_padding() -> None:
    legend, first, second = drawn(64).splitlines()
    # Segments of 20 and 30 tokens, an image of four tokens from token 2 on, padding to 64.
    one, other = first[2], first[22]
    assert first == f"0 {one}▒████" + "▒" * 14 + other + "▒" * 29 + "·" * 14
    assert second == f"1 {second[2]}" + "▒" * 63
    assert "1 tokens a cell" in legend
    assert f"{one} " in legend


def test_a_narrow_picture_keeps_the_proportions() -> None:
    first = drawn(32).splitlines()[1]
    assert first == f"0 {first[2]}██" + "▒" * 7 + first[12] + "▒" * 14 + "·" * 7


def test_sources_have_colours_on_a_terminal_and_no_codes_in_a_pipe() -> None:
    assert "\x1b[" in drawn(32, colour=True)
    assert "\x1b[" not in drawn(32)

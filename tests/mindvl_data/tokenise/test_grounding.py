"""Boxes: found in texts, held against their picture, and where the resized picture has what they frame."""

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mindvl_data.recipe import Boxes
from mindvl_data.tables.schema import Control, Part
from mindvl_data.tokenise import grounding
from mindvl_data.tokenise.grounding import BadBox, grounded, scaled
from mindvl_data.vision import Resolution, decode, patch_grid, read_header, smart_resize

SMALL, LARGE = Resolution(max_pixels=28 * 28 * 36), Resolution(min_pixels=600 * 600)


def rule(from_: str = "pixels", write: str = "resized", **more: Any) -> Boxes:
    return Boxes.model_validate({"from": from_, "write": write, **more})


def sample(*texts: str | None) -> list[Part]:
    """Texts and (None) image places, each a turn of its own."""
    return [Part(turn, "user", None, text) for turn, text in enumerate(texts)]


def written(
    texts: Sequence[str | None],
    sizes: Sequence[tuple[int, int]],
    how: Boxes,
    resolution: Resolution = SMALL,
    objects: str | None = None,
) -> str:
    found = grounded(sample(*texts), sizes, how, objects)
    assert found is not None
    return "".join(part.text or "" for part in found.at(resolution))


def numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"-?\d+", text.replace("bbox_2d", "").replace("point_2d", ""))]


# ------------------------------------------------------------------------------------ against real pixels


def drawn(size: tuple[int, int], box: tuple[int, int, int, int], orientation: int = 1) -> bytes:
    """A white picture with a red rectangle over these pixels of it as shown, stored as `orientation` says."""
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="red")
    stored = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = stored[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    (picture.transpose(turn) if turn is not None else picture).save(file, "PNG", exif=exif)
    return file.getvalue()


def pixels(data: bytes, grid: tuple[int, int, int]) -> NDArray[np.float32]:
    """The resized picture, [height, width, 3] normalised, put together from the patches the trainer gets."""
    _, high, wide = grid
    patches = decode(data, high, wide).reshape(high // 2, wide // 2, 2, 2, 3, 2, 14, 14)[..., 0, :, :]
    return patches.transpose(0, 2, 5, 1, 3, 6, 4).reshape(high * 14, wide * 14, 3)


def red(picture: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """The box of what is more red than white."""
    rows, columns = np.nonzero(picture[..., 1] < 0.2)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("resolution", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("scale", ["pixels", "unit", "thousand"])
def test_a_box_frames_in_the_resized_picture_what_it_framed_before(
    resolution: Resolution, orientation: int, scale: str
) -> None:
    size, box = (410, 290), (60, 100, 320, 260)
    data = drawn(size, box, orientation)
    header = read_header(data)
    assert (header.width, header.height) == size, "as shown"
    extent = {"pixels": size, "unit": (1, 1), "thousand": (1000, 1000)}[scale]
    values = [value / size[i % 2] * extent[i % 2] for i, value in enumerate(box)]
    text = f"here: <box>({values[0]!r},{values[1]!r}),({values[2]!r},{values[3]!r})</box>"
    found = numbers(written([None, text], [size], rule(scale), resolution))
    picture = pixels(data, patch_grid(*size, resolution))
    assert picture.shape[1::-1] == smart_resize(*size, resolution) != size
    assert np.abs(np.subtract(found, red(picture))).max() <= 1


# -------------------------------------------------------------------------------------------- forms of text

SIZE = (100, 50)  # resized to 112 × 56 at every bounds here
BOUNDS = Resolution()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<box>(10,20),(30,40)</box>", "<box>(11,22),(34,45)</box>"),
        ("a <ref>dog</ref><box>(10,20),(30,40)</box>.", "a <ref>dog</ref><box>(11,22),(34,45)</box>."),
        ("<box>[[10, 20, 30, 40],[0, 0, 1, 1]]</box>", "<box>[[11, 22, 34, 45],[0, 0, 1, 1]]</box>"),
        (
            "<|object_ref_start|>it<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>",
            "<|object_ref_start|>it<|object_ref_end|><|box_start|>(11,22),(34,45)<|box_end|>",
        ),
        ("<quad>(0,0),(10,0),(10,10),(0,10)</quad>", "<quad>(0,0),(11,0),(11,11),(0,11)</quad>"),
        ("<point>(10.5, 20)</point>", "<point>(12, 22)</point>"),
        ("<box>(10,20)</box> is a point", "<box>(11,22)</box> is a point"),
        (
            '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "2 dogs"}, {"point_2d" : [1e1,2.0E1]}]\n```',
            '```json\n[{"bbox_2d": [11, 22, 34, 45], "label": "2 dogs"}, {"point_2d" : [11,22]}]\n```',
        ),
        ("{'bbox_2d': [10, 20, 30, 40]}", "{'bbox_2d': [11, 22, 34, 45]}"),
        ("<box>(-0.4,0),(100.4,50.5)</box>", "<box>(0,0),(111,55)</box>"),
    ],
)
def test_every_form_keeps_all_but_its_numbers(text: str, expected: str) -> None:
    assert written([None, text], [SIZE], rule(), BOUNDS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "12, 13 and [1, 2, 3, 4]",
        "answer as <box>(x1,y1),(x2,y2)</box>",
        'say {"bbox_2d": [x1, y1, x2, y2]}',
        "<box></box> <box>( )</box> <box>(1,2),(3,4) and no end",
        "<bbox>(1,2),(3,4)</bbox>",
    ],
)
def test_what_is_no_box_is_text(text: str) -> None:
    assert grounded(sample(None, text), [SIZE], rule()) is None


def test_a_pattern_that_takes_for_ever_on_a_text_is_a_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounding, "PATTERN_SECONDS", 0.1)
    hangs = rule(pattern=r"((?:a|aa)+)$")
    with pytest.raises(BadBox, match=r"boxes\.pattern takes more than 0\.1 s on a text of 101 characters"):
        grounded(sample(None, "a" * 100 + "b"), [SIZE], hangs)


def test_a_pattern_of_ones_own() -> None:
    own = rule(pattern=r"at=\((.*?)\)")
    assert written([None, "click at=(10, 20) <box>(1,1),(2,2)</box>"], [SIZE], own, BOUNDS) == (
        "click at=(11, 22) <box>(1,1),(2,2)</box>"
    )
    with pytest.raises(ValueError, match="no regular expression"):
        rule(pattern="(")


@pytest.mark.parametrize(
    ("scale", "text", "reason"),
    [
        ("pixels", "<box>(10,20),(101,40)</box>", "box_outside_image"),
        ("pixels", "<box>(10,20),(30,51)</box>", "box_outside_image"),
        ("pixels", "<box>(-1,20),(30,40)</box>", "box_outside_image"),
        ("pixels", '{"point_2d": [1e400, 1]}', "box_outside_image"),
        ("unit", "<box>(0,0),(1,1.01)</box>", "box_outside_image"),
        ("thousand", '{"bbox_2d": [0, 0, 1001, 3]}', "box_outside_image"),
        ("pixels", "<box>(1,2),(3)</box>", "malformed_record"),
        ("pixels", "<quad>(1,2),(3,4)</quad>", "malformed_record"),
        ("pixels", '{"bbox_2d": [1, 2, 3]}', "malformed_record"),
        ("pixels", "<box>(10,20),(9,30)</box>", "malformed_record"),
        ("pixels", "<box>[[1,2,3,4],[10,20,30,19]]</box>", "malformed_record"),
    ],
)
def test_a_box_that_cannot_be_is_a_drop(scale: str, text: str, reason: str) -> None:
    with pytest.raises(BadBox) as caught:
        grounded(sample(None, text), [SIZE], rule(scale))
    assert caught.value.drop.reason == reason
    assert caught.value.drop.detail


def test_qwen2_vl_writes_control_tokens() -> None:
    parts = sample(None, "the <ref>dog</ref><box>[[10,20,30,40],[0,0,100,50]]</box> at <point>(50,25)</point>")
    found = grounded(parts, [SIZE], rule(write="thousand", marks="tokens"))
    assert found is not None
    texts = [(part.text, isinstance(part, Control)) for part in found.at(BOUNDS)[1:]]
    assert texts == [
        ("the ", False),
        *[("<|object_ref_start|>", True), ("dog", False), ("<|object_ref_end|>", True)],
        *[("<|box_start|>", True), ("(100,400),(300,800)", False), ("<|box_end|>", True)],
        *[("<|box_start|>", True), ("(0,0),(999,999)", False), ("<|box_end|>", True)],
        (" at <point>(500,500)</point>", False),
    ]
    assert {part.turn for part in found.at(BOUNDS)[1:]} == {1}


# ------------------------------------------------------------------------------------------- whose picture


def test_the_picture_of_a_box_is_the_one_shown_last() -> None:
    box = "<box>(0,0),(50,50)</box>"
    sizes = [(56, 56), (112, 112)]
    half = Resolution(max_pixels=56 * 56)
    assert numbers(written([None, box, None, box], sizes, rule(), half)) == [0, 0, 50, 50, 0, 0, 25, 25]
    assert numbers(written([box, None], sizes[1:], rule(), half)) == [0, 0, 25, 25]


def test_a_box_that_could_be_in_several_pictures_is_a_drop_unless_they_are_of_one_size() -> None:
    together = [
        Part(0, "user", None, None),
        Part(0, "user", None, None),
        Part(1, "assistant", None, "<box>(0,0),(5,5)</box>"),
    ]
    with pytest.raises(BadBox, match=r"box_without_image.*shown together"):
        grounded(together, [(56, 56), (112, 112)], rule())
    assert grounded(together, [(56, 56), (56, 56)], rule())
    assert grounded(together, [(56, 56), (112, 112)], rule("thousand", "thousand")), "shares of any picture"
    for parts, sizes in (
        (sample("<box>(0,0),(5,5)</box>"), []),
        (sample("<box>(0,0),(5,5)</box>", None, None), [SIZE] * 2),
    ):
        with pytest.raises(BadBox, match=r"box_without_image.*no picture shown before"):
            grounded(parts, sizes, rule())


def test_boxes_beside_the_text_name_their_picture_and_scale() -> None:
    texts = [None, None, "dog", "[0.5, 0.5, 1.0, 1.0]", "[10, 20]", "<box>(99,99),(99,99)</box>"]
    objects = [[2, "ref", 0, None], [3, "box", 1, "unit"], [4, "box", 0, None]]
    sizes = [(100, 50), (56, 56)]
    expected = "dog[28, 28, 55, 55][11, 22]<box>(99,99),(99,99)</box>"
    assert written(texts, sizes, rule(), BOUNDS, json.dumps(objects)) == expected
    tokens = written(texts, sizes, rule(marks="tokens"), BOUNDS, json.dumps(objects))
    assert tokens.startswith(
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(28,28),(55,55)<|box_end|><|box_start|>(11,22)<|box_end|>"
    )
    with pytest.raises(BadBox, match=r"box_without_image.*image 2, there are 2"):
        grounded(sample(*texts), sizes, rule(), json.dumps([[3, "box", 2, None]]))


# ---------------------------------------------------------------------------------------------- properties


def published(box: list[float], width: int, height: int, resolution: Resolution) -> list[int]:
    """The conversion that Qwen2.5-VL's authors give for absolute coordinates, from its description."""
    new_width, new_height = smart_resize(width, height, resolution)
    scales, last = (new_width / width, new_height / height), (new_width - 1, new_height - 1)
    return [max(0, min(round(value * scales[i % 2]), last[i % 2])) for i, value in enumerate(box)]


@given(
    width=st.integers(10, 3000),
    height=st.integers(20, 2000),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    resolution=st.sampled_from([SMALL, LARGE, BOUNDS]),
    whole=st.booleans(),
)
@settings(deadline=None)
def test_written_pixels_are_the_published_ones_and_lead_back(
    width: int, height: int, at: tuple[float, ...], resolution: Resolution, whole: bool
) -> None:
    xs, ys = sorted(value * width for value in at[:2]), sorted(value * height for value in at[2:])
    box: list[float] = [xs[0], ys[0], xs[1], ys[1]]
    if whole:
        box = [int(value) for value in box]
    text = json.dumps({"bbox_2d": box})
    found = json.loads(written([None, text], [(width, height)], rule(), resolution))["bbox_2d"]
    assert found == published(box, width, height, resolution)
    new = smart_resize(width, height, resolution)
    assert all(0 <= value < new[i % 2] for i, value in enumerate(found))
    back = [value * (width, height)[i % 2] / new[i % 2] for i, value in enumerate(found)]
    assert all(
        abs(a - b) <= (width / new[0], height / new[1])[i % 2] + 1e-9
        for i, (a, b) in enumerate(zip(back, box, strict=True))
    )


@given(value=st.integers(0, 999))
def test_thousandths_stay_what_they_are_at_any_bounds(value: int) -> None:
    assert scaled(value, 1000, 1000) == value
    text = json.dumps({"point_2d": [value, 999 - value]})
    for resolution in (SMALL, LARGE):
        assert written([None, text], [(333, 77)], rule("thousand", "thousand"), resolution) == text


PIECES = [
    "<box>",
    "</box>",
    "<|box_start|>",
    "<|box_end|>",
    "<ref>",
    "</ref>",
    '"bbox_2d":',
    "[",
    "]",
    "(",
    ",",
    "1",
    "9",
    ".",
    "-",
    "e",
    " ",
    "x",
    "<",
]


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.sampled_from(["text", "tokens"]))
@settings(deadline=None, max_examples=300)
def test_any_text_is_rewritten_or_dropped_and_the_rest_of_it_stays(pieces: list[str], marks: str) -> None:
    text = "".join(pieces)
    try:
        found = grounded(sample(None, text), [SIZE], rule(marks=marks))
    except BadBox:
        return
    if found is None:
        return
    after = "".join(part.text or "" for part in found.at(BOUNDS)[1:])
    if marks == "text":
        assert re.sub(r"[-+.\de]", "", after) == re.sub(r"[-+.\de]", "", text)


@pytest.mark.parametrize("piece", ["<box>", "<box>(1", '"bbox_2d": [1,', "<ref>", '"bbox_2d"  ', "<|box_start|>1"])
def test_a_long_text_without_an_end_is_searched_in_linear_time(piece: str) -> None:
    assert grounded(sample(None, piece * (2_000_000 // len(piece))), [SIZE], rule()) is None

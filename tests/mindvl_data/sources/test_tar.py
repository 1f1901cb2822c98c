"""The walk over a tar's headers reads what `tarfile` reads, and goes on behind damage."""

import io
import tarfile
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.sources.tar import Cut, Gap, Member, Run, walk

Entry = tuple[str, bytes, bytes]  # name, type, data


def archive(entries: Sequence[Entry], form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, kind, data in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "target" if kind in b"12" else ""
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def members(data: bytes) -> list[Member]:
    found: list[Member] = []
    for item in walk(data):
        if isinstance(item, Run):
            found += [Member(n, "file", o, s) for n, o, s in zip(item.names, item.offsets, item.sizes, strict=True)]
        elif isinstance(item, Member):
            found.append(item)
    return [member._replace(name=member.name.rstrip("/")) for member in found]


def by_tarfile(data: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [
            Member(
                m.name, "file" if m.isfile() else "link" if m.islnk() or m.issym() else "other", m.offset_data, m.size
            )
            for m in tar
        ]


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=160).filter(
    lambda name: name.strip("/") == name and name.isprintable()
)
ENTRIES = st.lists(
    st.tuples(NAMES, st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE]), st.binary(max_size=1500)),
    max_size=6,
).map(lambda entries: [(name, kind, b"" if kind == tarfile.SYMTYPE else data) for name, kind, data in entries])


@given(entries=ENTRIES, form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_every_archive_reads_as_tarfile_reads_it(entries: list[Entry], form: int) -> None:
    data = archive(entries, form)
    assert members(data) == by_tarfile(data)


def test_ustar_prefixes_folders_and_long_links() -> None:
    long = "/".join(["folder"] * 20)
    data = archive([(f"{long}/a.jpg", b"0", b"x"), ("d", tarfile.DIRTYPE, b""), ("b.jpg", b"0", b"y" * 600)])
    assert members(data) == by_tarfile(data)
    assert [member.kind for member in members(data)] == ["file", "other", "file"]


def test_archives_joined_by_cat_are_read_whole() -> None:
    one, two = archive([("a", b"0", b"1")]), archive([("b", b"0", b"2")])
    assert [member.name for member in members(one + two)] == ["a", "b"]


@pytest.mark.parametrize("place", [0, 100, 124, 130, 148, 156, 300, 511])
def test_a_damaged_header_is_a_gap_and_the_next_member_is_found(place: int) -> None:
    data = bytearray(archive([(name, b"0", b"data" * 100) for name in "abc"]))
    data[1024 + place] ^= 0x55
    items = list(walk(bytes(data)))
    assert [member.name for member in members(bytes(data))] == ["a", "c"]
    assert [item for item in items if isinstance(item, Gap)] == [Gap(1024, 2048)]


@given(entries=ENTRIES, cut=st.integers(0, 12_000))
def test_a_cut_archive_yields_what_is_whole_and_says_that_it_is_cut(entries: list[Entry], cut: int) -> None:
    data = archive(entries, tarfile.GNU_FORMAT)
    whole = members(data)
    items = list(walk(data[:cut]))
    found = members(data[:cut])
    assert found == [member for member in whole if member.offset + member.size <= cut][: len(found)]
    if len(found) < len(whole) and any(data[found[-1].offset + found[-1].size if found else 0 : cut]):
        assert any(isinstance(item, Cut | Gap) for item in items)


@given(data=st.binary(max_size=5000), flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=5))
def test_any_bytes_are_walked_to_their_end(data: bytes, flips: list[tuple[int, int]]) -> None:
    sound = bytearray(archive([("a.jpg", b"0", data[:700]), ("b", b"0", data[700:])]))
    for place, mask in flips:
        sound[place % len(sound)] ^= mask
    for content in (data, bytes(sound)):
        for member in members(content):
            assert member.offset + member.size <= len(content)


def test_prefixes_utf_8_and_odd_names_in_a_long_run() -> None:
    names = ["x" * 90 + f"/{'y' * 80}/{i}.jpg" for i in range(20)]
    names += [f"é-{i}.jpg" for i in range(20)] + ["line\nbreak.jpg", "tab\t.txt"] + [f"{i}.txt" for i in range(20)]
    data = archive([(name, b"0", b"x" * i) for i, name in enumerate(names)])
    assert members(data) == by_tarfile(data)


def test_a_negative_size_is_no_header_and_never_read_for_ever() -> None:
    header = bytearray(archive([("a.txt", b"0", b"")])[:512])
    header[124:136] = b"-0000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    sound = archive([(f"{i}.txt", b"0", b"x") for i in range(20)])
    for before, after in ((b"", sound), (sound[: 1024 * 15], sound)):
        data = before + bytes(header) + after
        assert [item for item in walk(data) if isinstance(item, Gap)] == [Gap(len(before), len(before) + 512)]
        assert len(members(data)) == len(before) // 1024 + 20


def test_a_size_of_twelve_digits_is_read_whole() -> None:
    data = bytearray(archive([(f"{i}.txt", b"0", b"x" * 9) for i in range(20)]))
    for start in range(0, 20 * 1024, 1024):
        data[start + 124 : start + 136] = b"000000000011"
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    assert members(bytes(data)) == by_tarfile(bytes(data))
    assert {member.size for member in members(bytes(data))} == {9}

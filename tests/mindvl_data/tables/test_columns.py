"""Columns in files: what was appended is what is read, and memory lets go of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.tables import columns
from mindvl_data.tables.columns import SpilledColumn, taken, taken_in_order

RESIDENT = """
import sys
from pathlib import Path

import numpy as np

from mindvl_data.tables.columns import SpilledColumn, let_go

def resident():
    return int(Path("/proc/self/status").read_text().split("RssFile:")[1].split()[0]) << 10

column = SpilledColumn(Path(sys.argv[1]), np.int64)
column.append(np.arange(1 << 22))
values = column.values()
before = resident()
assert values.sum() == (1 << 22) * ((1 << 22) - 1) // 2
read = resident()
let_go(values[5:])
after = resident()
assert values[-1] == (1 << 22) - 1
print(read - before, after - before)
"""


@pytest.mark.parametrize("width", [(), (16,)])
def test_a_column_is_its_parts_in_a_row_and_leaves_no_file(tmp_path: Path, width: tuple[int, ...]) -> None:
    column = SpilledColumn(tmp_path, np.int32, *width)
    parts = [np.random.default_rng(i).integers(0, 99, (length, *width)) for i, length in enumerate((3, 0, 5))]
    for part in parts:
        column.append(part)
    values = column.values()
    assert values.dtype == np.int32
    assert np.array_equal(values, np.concatenate(parts))
    assert not values.flags.writeable
    assert not list(tmp_path.iterdir())


def test_a_column_without_lines_is_empty(tmp_path: Path) -> None:
    assert SpilledColumn(tmp_path, np.uint8, 16).values().shape == (0, 16)


def test_what_was_read_of_a_column_can_be_let_go_and_is_read_again(tmp_path: Path) -> None:
    read, after = map(int, subprocess.check_output([sys.executable, "-c", RESIDENT, str(tmp_path)]).split())
    assert read > 30 << 20
    assert after < 8 << 20


@given(lines=st.integers(1, 40), data=st.data())
def test_a_gather_is_that_of_numpy_whatever_lies_in_a_chunk(lines: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, lines - 1), max_size=60)), np.int32)
    column = np.arange(2 * lines).reshape(lines, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "CHUNK", 7)
        patch.setattr(columns, "WINDOW", 5)
        assert np.array_equal(taken(column, index), column[index])
        assert np.array_equal(taken_in_order(column, index), column[index])

"""Worker processes: what they do not load, and what they leave to be loaded."""

import sys
from collections.abc import Iterator

import pyarrow as pa
import pytest

from mindvl_data.engines.local import LocalEngine
from mindvl_data.engines.worker import leave_pandas_out


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(workers=2) as engine:
        yield engine


def loaded_by_an_array(values: list[int]) -> bool:
    assert pa.array(values).to_pylist() == values
    return "pandas" in sys.modules


def as_series(values: list[int]) -> list[int]:
    import pandas

    return list(pa.table({"a": pa.array(pandas.Series(values))}).to_pandas()["a"])


def test_arrays_made_in_a_worker_do_not_load_pandas(engine: LocalEngine) -> None:
    assert engine.run(loaded_by_an_array, [[1], [2]]) == [False, False]


def test_code_in_a_worker_that_wants_pandas_has_it(engine: LocalEngine) -> None:
    pytest.importorskip("pandas")
    assert engine.run(as_series, [[1, 2], [3]]) == [[1, 2], [3]]


def test_pandas_that_is_loaded_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    marker = type(sys)("pandas")
    monkeypatch.setitem(sys.modules, "pandas", marker)
    leave_pandas_out()
    assert sys.modules["pandas"] is marker

"""What every worker process sets up before its first task, wherever it runs."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

import pyarrow as pa

# A worker is one core's share: its libraries must not each start a thread for every core.
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


def leave_pandas_out() -> None:
    """For a process of our own: pyarrow hears once that pandas is too old for it; whoever imports pandas still gets it.

    At the first array that it makes of Python's values pyarrow imports pandas where that is installed (`datasets`
    brings it): half a second of a core and 50 MB in every process, to know a Series that nobody here has.
    """
    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = old = ModuleType("pandas")
    vars(old)["__version__"] = "0"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pa.array([None])
    finally:
        del sys.modules["pandas"]

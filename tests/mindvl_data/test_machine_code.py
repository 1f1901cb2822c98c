"""Kernels: compiled with what they call, kept in a folder named after the code, and numba's settings left alone."""

from pathlib import Path
from typing import Any, cast

import numba

from mindvl_data.machine_code import Kernel
from mindvl_data.packing import best_fit, patterns


def code_of(kernel: object) -> Any:
    return cast(Kernel, kernel).machine_code


def test_machine_code_is_kept_beside_its_source_and_numbas_setting_is_as_before() -> None:
    before = numba.config.CACHE_DIR
    folder = Path(code_of(patterns.highest).stats.cache_path)
    assert before == numba.config.CACHE_DIR
    assert any(part.startswith("kernels-") for part in folder.parts)


def test_a_kernel_calls_machine_code_of_its_own_module_and_of_others() -> None:
    own, other = code_of(best_fit._push), code_of(patterns.at_least)
    names = code_of(best_fit.best_fit_decreasing).py_func.__globals__
    assert names["_push"] is own
    assert names["at_least"] is other
    assert best_fit._push is not own  # the module itself keeps its kernels, which run as Python too

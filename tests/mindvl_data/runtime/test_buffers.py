"""Buffers: memory on loan is nobody else's, and what came back is lent again."""

import threading

import numpy as np

from mindvl_data.runtime.buffers import Buffers


def address(loan: memoryview) -> int:
    return int(np.frombuffer(loan, np.uint8).ctypes.data)


def test_memory_is_lent_again_once_no_view_of_it_is_left() -> None:
    buffers = Buffers()
    first = buffers.lend(1000)
    part, place = first[10:20], address(first)
    del first
    other = buffers.lend(1000)
    assert address(other) != place, "a view of the first loan is still there"
    del part
    assert address(buffers.lend(500)) == place


def test_a_slightly_larger_loan_is_of_the_same_memory() -> None:
    buffers = Buffers()
    place = address(buffers.lend(1000))
    assert address(buffers.lend(1020)) == place


def test_a_larger_loan_is_as_large_as_asked() -> None:
    buffers = Buffers()
    assert len(buffers.lend(10)) == 10
    assert len(buffers.lend(10_000)) == 10_000
    assert len(buffers.lend(0)) == 0


def test_another_thread_may_drop_a_loan() -> None:
    buffers = Buffers()
    held = [buffers.lend(1000)]
    place = address(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert address(buffers.lend(1000)) == place

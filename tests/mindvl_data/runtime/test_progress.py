"""Progress where nobody looks on: lines of a log, few and enough."""

import logging

import pytest
from rich.console import Console

from mindvl_data.runtime import progress


def test_a_step_says_when_it_begins_each_half_minute_and_when_it_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with caplog.at_level(logging.INFO), progress.open_progress(Console(force_terminal=False)) as bar:
        task = bar.add_task("count", total=100)
        for second in range(100):
            now = float(second)
            bar.update(task, completed=second, total=100)
        bar.update(task, completed=100, total=100)
        bar.update(task, completed=100, total=100)
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "count: 0/100",
        "count: 30/100",
        "count: 60/100",
        "count: 90/100",
        "count: 100/100",
    ]


def test_bytes_are_shown_as_such(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress.open_progress(Console(force_terminal=False)) as bar:
        bar.update(bar.add_task("scan", total=2_000_000), completed=2_000_000, note="3 running")
    assert caplog.messages[0].startswith("scan: 2.0 MB of 2.0 MB")
    assert caplog.messages[0].endswith(", 3 running")


def test_a_terminal_gets_bars() -> None:
    bar = progress.open_progress(Console(force_terminal=True))
    assert type(bar) is progress.Progress

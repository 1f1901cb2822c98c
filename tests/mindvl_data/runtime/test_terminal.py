"""What a command says when it is stopped."""

import signal
import time

import pytest
import typer

from mindvl_data.runtime.terminal import reported


class Interrupted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_finaliser_stops_the_command_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """As while a library's writer is collected: Python drops what a finaliser raises."""

    def command() -> None:
        with reported(debug=False):
            Interrupted()
            time.sleep(10)

    with pytest.raises(typer.Exit) as stopped:
        command()
    assert stopped.value.exit_code == 130
    assert "Stopped. What was finished is kept" in capsys.readouterr().err

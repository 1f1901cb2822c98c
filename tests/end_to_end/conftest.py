"""What tests of several files stand on: an endpoint of a language model, as a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mindvl_data.endpoint import KEY, running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its URL and the folder where it notes what it is asked; `JUDGE_KEY` holds the key that it wants."""
    folder = tmp_path_factory.mktemp("endpoint")
    with running(folder) as url, pytest.MonkeyPatch.context() as environment:
        environment.setenv("JUDGE_KEY", KEY)
        yield url, folder

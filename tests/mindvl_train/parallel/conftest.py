"""The pool of processes that all parallel tests share."""

from collections.abc import Iterator

import pytest

from tests.mindvl_train.parallel.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Processes that become gloo ranks, started when the first test asks for them."""
    pool = Pool()
    yield pool
    pool.close()

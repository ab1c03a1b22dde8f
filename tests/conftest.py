"""What all test folders share: where a store lives, and one seed for all that is random.

The seed is printed at the head of each run; ``LSMKIT_SEED=... make test`` repeats it. Hypothesis
has three profiles: "dev" (few examples, failures of earlier runs first), "ci" (more examples, from
the seed alone), which is used where CI is set, and "soak" (for a night); HYPOTHESIS_PROFILE names
one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    import lsmkit

SEED = int(os.environ.get("LSMKIT_SEED") or random.SystemRandom().getrandbits(32))
PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")

# A deadline measures the machine, not the code: a flush may fall into any example.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=30, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=100, print_blob=True, database=None
)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=5000, print_blob=True)
hypothesis.settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if PROFILE == "ci" and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> str:
    return f"LSMKIT_SEED={SEED} HYPOTHESIS_PROFILE={PROFILE}"


@pytest.fixture
def rng() -> random.Random:
    """A generator of its own for each test, so that a test run alone repeats itself."""
    return random.Random(SEED)


@pytest.fixture
def store_path(tmp_path: Path) -> str:
    """A path where no store is yet."""
    return str(tmp_path / "store")


@pytest.fixture
def db(store_path: str) -> Iterator[lsmkit.DB]:
    """A new store with the default options, closed after the test."""
    import lsmkit

    with lsmkit.open(store_path) as opened:
        yield opened

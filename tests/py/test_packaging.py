"""Claim: what is written twice about the package agrees.

Method: the files of the tree are read as text and compared with the package that is imported.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lsmkit

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"an installed test suite has no {name}")
    return path.read_text(encoding="utf-8")


def test_version_of_the_package_is_that_of_the_project() -> None:
    found = re.search(r'^version = "([^"]+)"$', read("pyproject.toml"), re.MULTILINE)
    assert found is not None
    assert lsmkit.__version__ == found[1]


def test_every_target_of_the_makefile_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(
        re.findall(r"\bmake ([a-z]+)\b", "".join(re.findall(r"`[^`]+`", read("README.md"))))
    )
    assert named <= targets
    assert "test" in named

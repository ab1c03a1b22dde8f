"""Claim: tools/layering.py finds every kind of include that breaks the order of the C core.

Method: small made-up cores in a temporary folder, each with one fault, and the real one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = """\
# The made-up core.
# layer 0: values
low.c
only.h
# layer 1: files
high.c
peer.c
"""
CLEAN = {
    "low.h": "",
    "low.c": '#include "low.h"\n#include "only.h"\n#include <stdio.h>\n',
    "only.h": "",
    "high.h": '#include "low.h"\n',
    "high.c": '#include "high.h"\n#include "peer.h"\n',
    "peer.h": "",
    "peer.c": '#include "peer.h"\n',
}


@pytest.fixture(scope="module")
def layering() -> ModuleType:
    path = ROOT / "tools" / "layering.py"
    if not path.exists():
        pytest.skip("an installed test suite has no tools/")
    spec = importlib.util.spec_from_file_location("layering", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults_of(layering: ModuleType, folder: Path, sources: str = SOURCES, **changed: str) -> str:
    """What the check says of the clean core with some files changed (``low_c`` is ``low.c``)."""
    files = CLEAN | {name[:-2] + "." + name[-1]: text for name, text in changed.items()}
    (folder / "SOURCES").write_text(sources, encoding="utf-8")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return "\n".join(layering.check(folder))


def test_clean_core_has_no_fault(layering: ModuleType, tmp_path: Path) -> None:
    assert faults_of(layering, tmp_path) == ""


def test_include_of_a_higher_layer_is_found(layering: ModuleType, tmp_path: Path) -> None:
    found = faults_of(layering, tmp_path, low_c='#include "low.h"\n\n#include "high.h"\n')
    assert found == "low.c:3: layer 0 includes high.h of layer 1"


def test_header_of_a_source_is_held_to_its_layer(layering: ModuleType, tmp_path: Path) -> None:
    found = faults_of(layering, tmp_path, only_h='  #  include "peer.h"\n')
    assert found == "only.h:1: layer 0 includes peer.h of layer 1"


def test_circle_of_headers_is_found(layering: ModuleType, tmp_path: Path) -> None:
    found = faults_of(
        layering, tmp_path, high_h='#include "peer.h"\n', peer_h='#include "high.h"\n'
    )
    assert found == "a circle of includes: high.h -> peer.h -> high.h"


def test_source_may_use_a_header_that_builds_on_its_own(
    layering: ModuleType, tmp_path: Path
) -> None:
    assert faults_of(layering, tmp_path, peer_h='#include "high.h"\n') == ""


@pytest.mark.parametrize("quoted", ["<Python.h>", '"Python.h"'])
def test_python_is_kept_out(layering: ModuleType, tmp_path: Path, quoted: str) -> None:
    found = faults_of(layering, tmp_path, high_h=f"#include {quoted}\n")
    assert found == "high.h:1: the C core knows nothing of Python"


def test_header_from_elsewhere_is_found(layering: ModuleType, tmp_path: Path) -> None:
    found = faults_of(layering, tmp_path, high_c='#include "../../tests/c/harness.h"\n')
    assert found == "high.c:1: ../../tests/c/harness.h is not a header of this folder"


def test_commented_include_does_not_count(layering: ModuleType, tmp_path: Path) -> None:
    assert faults_of(layering, tmp_path, low_c='/*\n#include "high.h"\n*/\n') == ""


def test_file_that_is_not_listed_is_found(layering: ModuleType, tmp_path: Path) -> None:
    found = faults_of(layering, tmp_path, stray_c="", alone_h="")
    assert found == "alone.h: not in SOURCES\nstray.c: not in SOURCES"


def test_listed_file_that_does_not_exist_is_found(layering: ModuleType, tmp_path: Path) -> None:
    assert faults_of(layering, tmp_path, SOURCES + "gone.c\n") == "SOURCES: gone.c does not exist"


def test_malformed_list_is_found(layering: ModuleType, tmp_path: Path) -> None:
    found = faults_of(layering, tmp_path, SOURCES + "peer.c\nnotes.txt\n# layer 1: again\n")
    assert found.split("\n") == [
        "SOURCES:8: peer.c is listed twice",
        "SOURCES:9: not a C file below a layer heading: notes.txt",
        "SOURCES:10: layer 1 stands after layer 1",
    ]


def test_the_core_itself_is_in_order(layering: ModuleType) -> None:
    assert layering.check(ROOT / "src" / "lsmkit" / "_core" / "src") == []

"""Claim: importing lsmkit is cheap, because it loads none of the costly modules.

Method: a fresh interpreter tells which modules stand in sys.modules after an import and did not
before. It starts without `site`, whose own imports would hide those of the package.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lsmkit

COSTLY = (
    "asyncio",
    "dataclasses",
    "enum",
    "inspect",
    "json",
    "logging",
    "numpy",
    "pathlib",
    "re",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
    "weakref",
)

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
exec(sys.argv[2])
print("\\n".join(sorted(set(sys.modules) - before)))
"""

USE = """
import lsmkit
with lsmkit.open(sys.argv[3]) as db:
    db.put(b"a", b"1")
    db.put_many([b"b", b"c"], [b"2", b"3"])
    with db.batch() as b:
        b.put(b"d", b"4")
    assert db[b"a"] == b"1" and len([*db.scan()]) == 4
    with db.snapshot() as s:
        assert s.get_many([b"b"]) == [b"2"]
    db.flush()
    db.compact()
"""


def loaded_by(code: str, *args: str) -> set[str]:
    """The modules that this code brings into a bare interpreter."""
    where = str(Path(lsmkit.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", PROGRAM, where, code, *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_import_loads_nothing_costly() -> None:
    loaded = loaded_by("import lsmkit")
    assert "lsmkit._core.core" in loaded
    assert sorted(loaded.intersection(COSTLY)) == []
    assert sorted(name for name in loaded if name.startswith("lsmkit.cli")) == []


def test_a_store_of_bytes_is_used_without_anything_costly(store_path: str) -> None:
    assert sorted(loaded_by(USE, store_path).intersection(COSTLY)) == []


@pytest.mark.parametrize("name", ["numpy", "dataclasses"])
def test_what_is_loaded_is_seen(name: str) -> None:
    if name == "numpy":
        pytest.importorskip("numpy")
        sites = [path for path in sys.path if path.endswith("-packages")]
        loaded = loaded_by(f"import lsmkit; sys.path += {sites!r}; import numpy")
    else:
        loaded = loaded_by("import lsmkit; lsmkit.Options().__dataclass_fields__")
    assert name in loaded

"""Proves an installed lsmkit: writes, reads and reopens a store with nothing else installed.

Run by the interpreter of the environment that the wheel was installed into; it exits with an error
when something is missing, and prints one line otherwise.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
import tempfile

import lsmkit


def check_place() -> str:
    """The installed package is what was imported, with its types, and brings its libraries."""
    folder = os.path.dirname(os.path.realpath(lsmkit.__file__))
    site = os.path.realpath(sysconfig.get_paths()["platlib"])
    assert folder.startswith(site), f"imported from {folder}, not from {site}"
    assert os.path.exists(os.path.join(folder, "py.typed")), "py.typed is missing"
    assert os.path.exists(os.path.join(folder, "_core", "core.pyi")), "core.pyi is missing"
    assert lsmkit.__version__ == importlib.metadata.version("lsmkit")
    assert "numpy" not in sys.modules, "importing lsmkit has imported NumPy"
    return site


def check_libraries(site: str) -> None:
    """LZ4 and Zstandard come from the wheel, be it linked in or beside the module."""
    if not os.path.exists("/proc/self/maps"):
        return
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = {line.split(maxsplit=5)[-1].strip() for line in maps}
    foreign = [
        path
        for path in loaded
        if ("lz4" in os.path.basename(path) or "zstd" in os.path.basename(path))
        and not path.startswith(site)
    ]
    assert not foreign, f"libraries of this machine are used: {foreign}"


def check_store(path: str) -> int:
    rows = [(b"key %06d" % i, b"value %d " % i * 5) for i in range(20_000)]
    with lsmkit.open(path) as db:
        for key, value in rows[:1000]:
            db.put(key, value)
        db.put_many([key for key, _ in rows[1000:]], [value for _, value in rows[1000:]])
        db.delete(rows[0][0])
        db.flush()
        db.put(b"last", b"in the log", durability="sync")
    with lsmkit.open(path, create_if_missing=False) as db:
        assert db.get(rows[0][0]) is None
        assert db.get(b"last") == b"in the log"
        expected = sorted([*rows[1:], (b"last", b"in the log")])
        assert list(db.scan()) == expected
        assert db.verify().ok
    return len(expected)


def main() -> None:
    site = check_place()
    with tempfile.TemporaryDirectory() as folder:
        count = check_store(os.path.join(folder, "store"))
    check_libraries(site)
    print(f"lsmkit {lsmkit.__version__} on Python {sys.version.split()[0]}: {count} rows proved")


if __name__ == "__main__":
    main()

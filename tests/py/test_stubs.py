"""Claim: the types that the package ships are those it has, and all that is public is explained.

Method: mypy's stubtest compares core.pyi with the extension module; inspect compares parameter
names and walks all public names for docstrings; typed_program.py is run, and read for what it
uses.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import lsmkit
from lsmkit import aio, compaction, dbm, errors, merge, options, stats, testing, verify
from lsmkit._core import core

repair_module = sys.modules["lsmkit.repair"]  # in the package the name is the function's
PACKAGE = Path(lsmkit.__file__).parent
STUB = PACKAGE / "_core" / "core.pyi"
PROGRAM = Path(__file__).parent / "typed_program.py"
MODULES: list[ModuleType] = [
    lsmkit,
    aio,
    compaction,
    dbm,
    errors,
    merge,
    options,
    repair_module,
    stats,
    testing,
    verify,
]
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type)]
# Whoever writes a policy has its interface; programs that use one only make it.
CLASSES = [
    kind
    for module in MODULES
    if module not in (compaction, errors, dbm)
    for name in module.__all__
    for kind in (getattr(module, name),)
    if isinstance(kind, type) and (module is lsmkit or kind.__module__ == module.__name__)
]
CLASSES = [kind for kind in dict.fromkeys(CLASSES) if kind not in ERRORS]

# What stubtest says about every extension module of Cython: it can have no decorator for older
# type checkers, and there are no doctests in it.
EXPECTED = ("is a disjoint base at runtime", "core.__test__ is not present in stub")


def environment() -> dict[str, str]:
    """For a program that shall import the package that this test has imported."""
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "MYPYPATH": str(PACKAGE.parent)}


def members(kind: type) -> Iterator[tuple[str, object]]:
    """Public names of a class and of its bases, but not of those of the standard library."""
    for name in dir(kind):
        owner = next(base for base in kind.__mro__ if name in vars(base))
        if not name.startswith("_") and owner.__module__.startswith("lsmkit"):
            yield name, inspect.getattr_static(kind, name)


def parameters(of: ast.FunctionDef) -> list[str]:
    a = of.args
    names = [x.arg for x in [*a.posonlyargs, *a.args, *a.kwonlyargs]]
    return names + [x.arg for x in (a.vararg, a.kwarg) if x is not None]


# --- The stub and the module -----------------------------------------------------------------


def test_the_stub_says_what_the_module_has(tmp_path: Path) -> None:
    pytest.importorskip("mypy.stubtest")
    config = tmp_path / "mypy.ini"  # without the project's, which names files of its own
    config.write_text("[mypy]\nstrict = true\n")
    command = [sys.executable, "-m", "mypy.stubtest", "lsmkit._core.core", "--concise"]
    done = subprocess.run(
        [*command, "--mypy-config-file", str(config)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert [x for x in lines if not any(known in x for known in EXPECTED)] == []
    assert any("core.__test__" in x for x in lines), "it has looked at the module"


def test_the_stub_names_all_that_the_module_offers() -> None:
    tree = ast.parse(STUB.read_text("utf-8"))
    named = {x.name: x for x in tree.body if isinstance(x, ast.ClassDef | ast.FunctionDef)}
    offered = {
        name
        for name, value in vars(core).items()
        if getattr(value, "__module__", None) == core.__name__
        and (not name.startswith("_") or name.startswith("_probe_"))
    }
    assert offered - set(named) == set()
    for name in offered:
        stub, real = named[name], getattr(core, name)
        if isinstance(stub, ast.ClassDef):
            stubs = {x.name for x in stub.body if isinstance(x, ast.FunctionDef)}
            own = {x for x in vars(real) if not x.startswith("_")}
            assert own - stubs == set(), name
        elif not stub.decorator_list:  # of overloads stubtest knows more
            assert parameters(stub) == [*inspect.signature(real).parameters], name


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert STUB.is_file()


# --- The program that uses all of it ---------------------------------------------------------


def test_the_typed_program_runs(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "store")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout.endswith("everything has its type\n")


def test_the_typed_program_uses_every_public_name() -> None:
    tree = ast.parse(PROGRAM.read_text("utf-8"))
    used = {x.attr for x in ast.walk(tree) if isinstance(x, ast.Attribute)}
    used |= {x.arg for x in ast.walk(tree) if isinstance(x, ast.keyword) and x.arg}
    used |= {x.asname or x.name for x in ast.walk(tree) if isinstance(x, ast.alias)}
    wanted = {*lsmkit.__all__, *compaction.__all__, *merge.__all__, *testing.__all__}
    wanted |= set(lsmkit.Options._names)
    for kind in CLASSES:
        wanted |= {name for name, _ in members(kind) if name != "from_raw"}
    assert wanted - used == set()


WRONG = """\
import lsmkit

def use(db: lsmkit.DB) -> None:
    db.put("a", b"1")
    db.put(b"a", b"1", durability="never")
    db.put_many([b"a"], ["1"])
    values: list[bytes] = db.get_many([b"a"])
    db.scan("a")
    lsmkit.encode_key(None)
    lsmkit.Column()
    lsmkit.open("store", durability=1)
"""


def test_mypy_refuses_wrong_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "program.py"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    errors = {int(x.split(":")[1]) for x in done.stdout.splitlines() if ": error:" in x}
    assert errors == set(range(4, 12)), done.stdout


# --- Docstrings ------------------------------------------------------------------------------


def explained(text: str | None) -> bool:
    """More than the name again: a sentence."""
    return text is not None and len(text.split()) >= 3 and "." in text


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_public_names_are_explained(module: ModuleType) -> None:
    names: list[str] = module.__all__
    silent = [
        name
        for name in names
        if callable(getattr(module, name)) and not explained(getattr(module, name).__doc__)
    ]
    assert explained(module.__doc__)
    assert silent == []


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_public_members_are_explained(kind: type) -> None:
    silent = []
    fields: tuple[str, ...] = getattr(kind, "_names", ())  # have theirs below them, in the source
    for name, member in members(kind):
        text = inspect.getdoc(getattr(kind, name))
        # A plain attribute of C can have no docstring: its class explains it.
        in_class = inspect.isdatadescriptor(member) and f"`{name}`" in (kind.__doc__ or "")
        if name not in fields and not explained(text) and not in_class:
            silent.append(name)
    assert silent == []


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_are_explained(kind: type) -> None:
    assert explained(kind.__dict__["__doc__"])

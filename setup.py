"""Builds the one extension module, ``lsmkit._core.core``: the Cython border and the C core.

The C files are read from ``src/lsmkit/_core/src/SOURCES``. LZ4 and Zstandard are linked into the
module where the machine has archives that a shared object can hold, else as shared libraries;
xxHash is a header. Everything else about the package stands in ``pyproject.toml``.

Environment:
    LSMKIT_DEBUG=1     assertions of the C core (LK_ASSERT) and debug information
    LSMKIT_OPT=-O1     another optimisation level; -O1 halves the time of a build
    LSMKIT_STATIC=0    shared LZ4 and Zstandard even where archives exist
    LSMKIT_JOBS=2      C files that are compiled at the same time
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from Cython.Compiler.Errors import CompileError
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("src/lsmkit/_core")
C_ROOT = CORE / "src"
MAC = sys.platform == "darwin"
DEBUG = os.environ.get("LSMKIT_DEBUG", "0") not in ("", "0")

# The archives' own symbols stay inside, so that another module's LZ4 is never mixed with ours.
HIDE_ARCHIVES = "-Wl,-exported_symbol,_PyInit_core" if MAC else "-Wl,--exclude-libs,ALL"

# What the C core links, each with functions that bring in all that it uses of the library.
LIBRARIES = {
    "lz4": ("LZ4_compress_fast", "LZ4_compress_HC", "LZ4_decompress_safe"),
    "zstd": ("ZSTD_compressCCtx", "ZSTD_compress2", "ZSTD_createCDict", "ZSTD_decompressDCtx"),
}

CYTHON_DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "freethreading_compatible": True,
    # Cython would copy a pointer to bytes as if it were the bytes, and free them twice.
    "auto_pickle": False,
}


def c_sources() -> list[str]:
    """The C files named in SOURCES: its lines that end in ``.c``."""
    lines = (C_ROOT / "SOURCES").read_text(encoding="utf-8").split("\n")
    return [str(C_ROOT / line.strip()) for line in lines if line.strip().endswith(".c")]


def headers() -> list[str]:
    return sorted(map(str, C_ROOT.glob("*.h")))


def brew_prefix() -> list[Path]:
    """Where Homebrew keeps headers and libraries, which its compiler does not search by itself."""
    if not MAC:
        return []
    try:
        found = subprocess.run(["brew", "--prefix"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [Path(found.stdout.strip())]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def links_as_shared(archive: str, functions: tuple[str, ...]) -> bool:
    """Whether these functions of an archive can go into a shared object: not every ``.a`` was made
    with position-independent code, and only the linker can tell. Debian's can where their symbols
    are hidden, as they are in the module."""
    roots = [f"-Wl,-u,{'_' if MAC else ''}{function}" for function in functions]
    strict = [] if MAC else [HIDE_ARCHIVES, "-Wl,-z,text"]
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "probe.so")
        shared = "-dynamiclib" if MAC else "-shared"
        command = [*compiler(), shared, "-o", out, *roots, archive, *strict, "-pthread"]
        return subprocess.run(command, capture_output=True).returncode == 0


def find_archive(name: str, folders: list[Path]) -> str | None:
    """The path of ``lib<name>.a`` if it may be linked into the module."""
    if os.environ.get("LSMKIT_STATIC", "1") == "0":
        return None
    candidates = [str(folder / f"lib{name}.a") for folder in folders]
    asked = [*compiler(), f"-print-file-name=lib{name}.a"]
    candidates.append(subprocess.run(asked, capture_output=True, text=True).stdout.strip())
    for path in candidates:
        if os.path.exists(path) and links_as_shared(path, LIBRARIES[name]):
            return os.path.normpath(path)
    return None


def extension() -> Extension:
    prefixes = brew_prefix()
    compile_args = ["-std=c11", os.environ.get("LSMKIT_OPT") or "-O3", "-fvisibility=hidden"]
    compile_args += ["-pthread", "-g" if DEBUG else "-g0"]
    link_args = ["-pthread", HIDE_ARCHIVES]
    libraries = []
    for name in LIBRARIES:
        archive = find_archive(name, [prefix / "lib" for prefix in prefixes])
        if archive is None:
            libraries.append(name)
        else:
            link_args.append(archive)
    macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", "1")]
    if DEBUG:
        macros.append(("LK_DEBUG", "1"))
    return Extension(
        "lsmkit._core.core",
        sources=[str(CORE / "core.pyx"), *c_sources()],
        depends=[*headers(), str(C_ROOT / "SOURCES"), "setup.py"],
        include_dirs=[str(C_ROOT), *(str(prefix / "include") for prefix in prefixes)],
        library_dirs=[str(prefix / "lib") for prefix in prefixes],
        libraries=libraries,
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


class BuildCore(build_ext):
    """Compiles what has changed, some files at a time, into ``build/`` (or ``--build-temp``).

    setuptools compiles all files of an extension one after another whenever any of them is newer
    than the module. Objects are kept by interpreter and flags, so builds of different kinds do
    not meet.
    """

    def finalize_options(self) -> None:
        # An editable install names a temporary folder, by another way, which would keep nothing.
        self.products = self.build_temp or "build"
        super().finalize_options()

    def build_extension(self, ext: Extension) -> None:
        kind = hashlib.sha256(
            repr((sys.version, compiler(), ext.define_macros, ext.extra_compile_args)).encode()
        ).hexdigest()[:8]
        tag = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
        self.build_temp = os.path.join(self.products, "extension", f"{tag}-{kind}")
        border, *core = ext.sources
        try:
            [generated] = cythonize(
                [Extension(ext.name, [border])],
                build_dir=os.path.join(self.products, "cython"),
                compiler_directives=CYTHON_DIRECTIVES,
                force=self.force,
                quiet=True,
            )
        except CompileError:
            sys.exit(f"{border}: Cython found the errors above")
        ext.sources = [*generated.sources, *core]
        compile_all = self.compiler.compile
        all_anew, self.force = self.force, True  # linking is cheap, and its flags may have changed
        jobs = int(os.environ.get("LSMKIT_JOBS") or min(os.cpu_count() or 1, 4))

        def compile_stale(sources: list[str], **options: Any) -> list[str]:
            def compile_one(source: str) -> str:
                [target] = self.compiler.object_filenames([source], output_dir=self.build_temp)
                if all_anew or is_stale(target, [source, *ext.depends]):
                    compile_all([source], **options)
                return target

            # The longest first: the generated file takes as long as all others together.
            ordered = sorted(sources, key=os.path.getsize, reverse=True)
            with ThreadPoolExecutor(jobs) as pool:
                done = dict(zip(ordered, pool.map(compile_one, ordered), strict=True))
            return [done[source] for source in sources]

        self.compiler.compile = compile_stale
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_all
            self.force = all_anew


def is_stale(target: str, sources: list[str]) -> bool:
    if not os.path.exists(target):
        return True
    made = os.path.getmtime(target)
    return any(os.path.getmtime(source) > made for source in sources)


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildCore})

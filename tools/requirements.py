"""Prints the requirements of some extras of pyproject.toml, one a line.

    python tools/requirements.py test bench

An extra that names other extras of the project (``lsmkit[cli]``) brings theirs. pip itself can
only install the extras of a package together with the package, which would make the format check
wait for a C compiler.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib  # what pip reads the same file with

OWN = re.compile(r"lsmkit\[([^\]]+)\]$")


def requirements_of(extra: str, extras: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    for requirement in extras[extra]:
        own = OWN.match(requirement)
        if own is None:
            found.append(requirement)
        else:
            for name in own[1].split(","):
                found += requirements_of(name.strip(), extras)
    return found


def main(names: list[str]) -> None:
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    for requirement in dict.fromkeys(
        line for name in names for line in requirements_of(name, extras)
    ):
        print(requirement)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Checks that the C core depends in one direction only.

    python tools/layering.py src/lsmkit/_core/src

The layers stand in ``SOURCES``, the list that everything is built from::

    # layer 0: values
    status.c
    bytes.h

A line that ends in ``.c`` is compiled, and the header of the same name is in its layer; a line
that ends in ``.h`` places a header that has no source of its own. The rules:

- every C file of the folder is placed, and every file named there exists;
- a file includes, of the project's own, only headers of its own layer or of a lower one;
- headers do not include one another in a circle; a source may use a header that builds on its own;
- nothing includes ``Python.h``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LAYER = re.compile(r"#\s*layer\s+(\d+)\b")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(<[^>]+>|"[^"]+")', re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def read_layers(sources: str) -> tuple[dict[str, int], list[str]]:
    """The layer of each name in the text of SOURCES, and what is wrong with that text."""
    layers: dict[str, int] = {}
    faults: list[str] = []
    layer = -1
    for number, raw in enumerate(sources.split("\n"), 1):
        line = raw.strip()
        heading = LAYER.match(line)
        if heading:
            if int(heading[1]) <= layer:
                faults.append(f"SOURCES:{number}: layer {heading[1]} stands after layer {layer}")
            layer = int(heading[1])
        elif line and not line.startswith("#"):
            if not line.endswith((".c", ".h")) or layer < 0:
                faults.append(f"SOURCES:{number}: not a C file below a layer heading: {line}")
            elif line in layers:
                faults.append(f"SOURCES:{number}: {line} is listed twice")
            else:
                layers[line] = layer
    return layers, faults


def layer_of(name: str, layers: dict[str, int]) -> int | None:
    """A header without a line of its own is in the layer of its source."""
    own = layers.get(name)
    return own if own is not None else layers.get(name.removesuffix(".h") + ".c")


def find_includes(text: str) -> list[tuple[int, str, bool]]:
    """Line, name, and whether in quotes, of each include that is not commented out."""
    blanked = COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    found = []
    for match in INCLUDE.finditer(blanked):
        line = blanked.count("\n", 0, match.start(1)) + 1
        found.append((line, match[1][1:-1], match[1][0] == '"'))
    return found


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """One circle for each group of names that reach one another, in the order of inclusion."""
    circles: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circles.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            walk(other, [*path, name])
        done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return circles


def check(folder: Path) -> list[str]:
    """Everything that breaks a rule in `folder`, one line each; empty where all is well."""
    layers, faults = read_layers((folder / "SOURCES").read_text(encoding="utf-8"))
    files = sorted(path.name for path in folder.iterdir() if path.suffix in (".c", ".h"))
    faults += [f"SOURCES: {name} does not exist" for name in layers if name not in files]
    faults += [
        f"{name}: not in SOURCES"
        for name in files
        if name not in layers and (name.endswith(".c") or layer_of(name, layers) is None)
    ]
    graph: dict[str, set[str]] = {}
    for name in files:
        own = layer_of(name, layers)
        for line, included, in_quotes in find_includes((folder / name).read_text("utf-8")):
            place = f"{name}:{line}"
            other = layer_of(included, layers)
            if included == "Python.h":
                faults.append(f"{place}: the C core knows nothing of Python")
            elif not in_quotes:
                continue
            elif included not in files:
                faults.append(f"{place}: {included} is not a header of this folder")
            elif own is not None and other is not None and other > own:
                faults.append(f"{place}: layer {own} includes {included} of layer {other}")
            else:
                graph.setdefault(name, set()).add(included)
    faults += ["a circle of includes: " + " -> ".join(circle) for circle in find_circles(graph)]
    return faults


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: layering.py FOLDER", file=sys.stderr)
        return 2
    faults = check(Path(arguments[0]))
    for fault in faults:
        print(f"{arguments[0]}/{fault}", file=sys.stderr)
    if not faults:
        print("layers: every include goes down")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

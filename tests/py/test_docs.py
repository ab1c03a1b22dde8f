"""Claim: what the documents show works, and what they name is there.

Method: each fenced ``python`` block of README.md and docs/*.md is run by itself, in an empty
directory, under the name and the line numbers of its document, so that a traceback leads there. It
asserts whatever it claims. Then the text is searched: links, files and commands must exist.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

pytestmark = pytest.mark.skipif(
    not DOCUMENTS, reason="an installed test suite has no documents beside it"
)


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of a language: number of the first line (from 1), and the lines."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]


def run(name: str, line: int, source: str) -> None:
    """Runs a block as if it stood alone in a file that is as long as its document."""
    tree = ast.parse("\n" * (line - 1) + source, filename=name)
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            modules.append(node.module)
        for module in modules:
            if not module.startswith("lsmkit"):
                pytest.importorskip(module)
    exec(compile(tree, name, "exec"), {"__name__": "__main__"})


EXAMPLES = [
    pytest.param(name, line, source, id=f"{name}:{line}")
    for name, path in zip(NAMES, DOCUMENTS, strict=True)
    for line, source in blocks(path.read_text(encoding="utf-8"), "python")
]


@pytest.mark.parametrize(("name", "line", "source"), EXAMPLES)
def test_example_runs_as_it_stands(
    name: str, line: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(name, line, source)


def test_readme_and_the_page_on_writing_have_examples() -> None:
    assert {"README.md", "docs/WRITING.md"} <= {str(each.values[0]) for each in EXAMPLES}


def test_example_that_is_wrong_fails_at_its_line_of_the_document() -> None:
    text = "# Title\n\n```python\nx = 1\nassert x == 2\n```\n\n```python\nassert True\n```\n"
    (line, source), (other, _) = blocks(text, "python")
    assert (line, other) == (4, 9)
    with pytest.raises(AssertionError) as caught:
        run("title.md", line, source)
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("title.md", 5)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{name} links to {target}"
        if heading:
            lines = linked.read_text(encoding="utf-8").split("\n")
            titles = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
            slugs = [re.sub(r"[^a-z0-9 -]", "", title).replace(" ", "-") for title in titles]
            assert heading in slugs, f"{name} links to {target}"


FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:c|h|py|pyi|pyx|pxi|pxd|md|sh|toml))`")


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    if not (ROOT / "src").exists():
        pytest.skip("the sources are not beside the documents")
    there = {
        part
        for folder in ("src", "tests", "docs", "tools", "bench")
        for path in (ROOT / folder).rglob("*.*")
        for part in [path.relative_to(ROOT).as_posix()]
    } | {path.name for path in ROOT.iterdir()}
    for file in FILE.findall((ROOT / name).read_text(encoding="utf-8")):
        found = any(path == file or path.endswith("/" + file) for path in there)
        assert found, f"{name} names {file}"


def shown_commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8") if DOCUMENTS else ""
    return [
        line.partition(" # ")[0].strip()
        for _, block in blocks(text, "")
        for line in block.split("\n")
        if line.startswith("lsmkit ")
    ]


@pytest.mark.parametrize("command", shown_commands())
def test_command_that_the_readme_shows_is_understood(command: str) -> None:
    click = pytest.importorskip("click")
    from lsmkit.cli.group import group

    program, name, *arguments = shlex.split(command)
    found = group.get_command(click.Context(group), name)
    assert program == "lsmkit"
    assert found is not None, f"no command {name}"
    while isinstance(found, click.Group):
        found = found.get_command(click.Context(found), arguments.pop(0))
        assert found is not None, command
    found.make_context(name, arguments)  # a UsageError where it is not so

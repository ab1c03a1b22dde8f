"""What commands print: results to stdout, remarks to stderr; and the error that ends a command."""

from __future__ import annotations

import json
import sys
from typing import Any


class CommandError(Exception):
    """Ends the command with this line on stderr and this exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def note(text: str) -> None:
    """A line for the person at the terminal; never part of the result."""
    # An argument that is not text in this locale reaches us as surrogates.
    print(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), file=sys.stderr)


def write_bytes(data: bytes) -> None:
    """Raw bytes to stdout, whatever the locale's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def write_line(text: str) -> None:
    write_bytes(text.encode("utf-8", "surrogateescape") + b"\n")


def write_json(value: Any) -> None:
    """One JSON document on one line."""
    write_line(json.dumps(value, ensure_ascii=False))


def size_text(count: float) -> str:
    """Bytes for people, in powers of 1000: ``31.1 MB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"

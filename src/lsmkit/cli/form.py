r"""How keys and values are written on a command line, and read back.

Keys and values are bytes; a command line is text. The forms:

*text*     the bytes of the argument as they stand; printed as *escape*.
*escape*   UTF-8 text in which ``\\ \t \n \r`` and ``\xHH`` stand for what cannot be printed or
           is not UTF-8. Every byte string has exactly one escaped form as we print it, it holds no
           tab and no newline, and ``--escape`` or ``load --format pairs`` reads it back.
*hex*, *base64*   as they are known.

A composite key (``lsmkit.encode_key``) is written as its parts between commas when ``--key-types``
names their types: ``--key-types str,int`` takes ``N725MQ,1357034400``. Parts are escaped, and a
comma inside one is ``\x2c``.
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import re
from dataclasses import dataclass
from typing import Any

import click

import lsmkit
from lsmkit.cli.output import CommandError

KEY_BYTES_MAX = 65_535
INT64_MAX = 2**63 - 1

_NAMED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNNAMED = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.|$)", re.DOTALL)


def escape(data: bytes) -> str:
    """The printable form of any bytes; see the head of this module."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    out = []
    for char in text:
        if char in _NAMED:
            out.append(_NAMED[char])
        elif char.isprintable():
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    return "".join(out)


def unescape(data: bytes) -> bytes:
    """Reads `escape` back; a backslash that begins no escape is a ValueError."""
    if b"\\" not in data:
        return data

    def replace(found: re.Match[bytes]) -> bytes:
        name = found[1]
        if len(name) == 3:
            return bytes([int(name[1:], 16)])
        if name in _UNNAMED:
            return _UNNAMED[name]
        raise ValueError(f"no such escape at byte {found.start()}: \\{name.decode('latin-1')}")

    return _ESCAPE.sub(replace, data)


def parse_int(text: bytes) -> int:
    if not re.fullmatch(rb"\s*[+-]?[0-9]+\s*", text):
        raise ValueError("not an integer")
    # Python refuses to read thousands of digits; none of them fit anyway.
    number = int(text) if len(text) < 100 else INT64_MAX + 1
    if not -INT64_MAX - 1 <= number <= INT64_MAX:
        raise ValueError("an integer of more than 64 bits")
    return number


def parse_float(text: bytes) -> float:
    # Python would take digits with underscores, which no data file means as a number.
    if b"_" in text:
        raise ValueError("not a number")
    try:
        return float(text)
    except ValueError:
        raise ValueError("not a number") from None


def parse_bool(text: bytes) -> bool:
    known = {b"true": True, b"1": True, b"false": False, b"0": False}
    try:
        return known[text.strip().lower()]
    except KeyError:
        raise ValueError("neither true nor false") from None


def parse_text(text: bytes) -> bytes:
    """Text parts stay bytes: `encode_key` writes a str as its UTF-8, so nothing need be decoded."""
    return text


# The types that a part of a key may have: how its text becomes the part, and what decode_key is
# told to make of it.
PART_PARSERS: dict[str, Any] = {
    "str": parse_text,
    "bytes": parse_text,
    "int": parse_int,
    "float": parse_float,
    "bool": parse_bool,
}
PART_TYPES = {"str": str, "bytes": bytes, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Form:
    """What --escape, --hex, --base64 and --key-types of one command line ask for."""

    name: str = "text"
    key_types: tuple[str, ...] = ()

    def read(self, text: str, what: str) -> bytes:
        """An argument as bytes; `what` names it in the error."""
        data = os.fsencode(text)
        try:
            if self.name == "escape":
                return unescape(data)
            if self.name == "hex":
                return bytes.fromhex(text)
            if self.name == "base64":
                return base64.b64decode(data, validate=True)
            return data
        except (ValueError, binascii.Error) as error:
            raise CommandError(f"{what} is not in {self.name} form: {error}") from None

    def show(self, data: bytes) -> str:
        if self.name == "hex":
            return data.hex()
        if self.name == "base64":
            return base64.b64encode(data).decode()
        return escape(data)

    def fields(self, name: str, data: bytes) -> dict[str, str]:
        """For JSON: ``name`` holds text, or the form asked for; ``name_base64`` what is not
        UTF-8."""
        if self.name in ("hex", "base64"):
            return {name: self.show(data)}
        try:
            return {name: data.decode()}
        except UnicodeDecodeError:
            return {f"{name}_base64": base64.b64encode(data).decode()}

    def read_key(self, text: str, what: str = "KEY") -> bytes:
        if not self.key_types:
            return self.read(text, what)
        parts = self._parts(text, what)
        if len(parts) != len(self.key_types):
            raise CommandError(
                f"{what} has {len(parts)} parts, and --key-types names {len(self.key_types)}"
            )
        return lsmkit.encode_key(*parts)

    def read_bound(self, text: str, what: str) -> bytes:
        """A prefix or the end of a range: its first parts are enough.

        An empty part behind them ends the last one, so that the prefix N1 is the keys of N1 and
        not those of N14228 too.
        """
        if not self.key_types:
            return self.read(text, what)
        parts = self._parts(text, what)
        if len(parts) < len(self.key_types):
            parts.append(b"")
        return lsmkit.encode_key(*parts)

    def show_key(self, key: bytes) -> str:
        if not self.key_types:
            return self.show(key)
        return ",".join(map(_show_part, self._decode(key)))

    def key_fields(self, key: bytes) -> dict[str, Any]:
        if not self.key_types:
            return self.fields("key", key)
        return {"key": [p if not isinstance(p, bytes) else escape(p) for p in self._decode(key)]}

    def _parts(self, text: str, what: str) -> list[Any]:
        texts = os.fsencode(text).split(b",")
        if len(texts) > len(self.key_types):
            raise CommandError(
                f"{what} has {len(texts)} parts, and --key-types names {len(self.key_types)}"
            )
        parts = []
        for number, (part, kind) in enumerate(zip(texts, self.key_types, strict=False), 1):
            try:
                parts.append(PART_PARSERS[kind](unescape(part)))
            except ValueError as error:
                raise CommandError(
                    f"part {number} of {what}, {escape(part)!r}, is no {kind}: {error}"
                ) from None
        return parts

    def _decode(self, key: bytes) -> tuple[Any, ...]:
        try:
            return tuple(lsmkit.decode_key(key, *(PART_TYPES[kind] for kind in self.key_types)))
        except (ValueError, lsmkit.Error) as error:
            wanted = ",".join(self.key_types)
            raise CommandError(f"key {escape(key)} is not {wanted}: {error}") from None


def _show_part(part: Any) -> str:
    if isinstance(part, bool):
        return "true" if part else "false"
    if isinstance(part, str):
        part = part.encode("utf-8", "surrogateescape")
    if isinstance(part, bytes):
        return escape(part).replace(",", "\\x2c")
    return str(part)


def _read_key_types(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    kinds = tuple(kind.strip() for kind in text.split(","))
    for kind in kinds:
        if kind not in PART_PARSERS:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(PART_PARSERS)}")
    return kinds


def form_options(command: Any) -> Any:
    """Adds the options that choose a form; the command gets them as `form`."""

    @functools.wraps(command)
    def with_form(
        *args: Any, form_name: str | None, key_types: tuple[str, ...], **rest: Any
    ) -> Any:
        return command(*args, form=Form(form_name or "text", key_types), **rest)

    for name, text in (
        ("base64", "Keys and values in base64."),
        ("hex", "Keys and values in hexadecimal."),
        ("escape", r"Keys and values with \\ \t \n \r \xHH, as scan prints them."),
    ):
        with_form = click.option(
            f"--{name}", "form_name", flag_value=name, default=None, help=text
        )(with_form)
    return click.option(
        "--key-types",
        metavar="TYPE[,TYPE...]",
        callback=_read_key_types,
        help="Keys are made of parts (encode_key), written between commas: "
        + ", ".join(PART_PARSERS)
        + ".",
    )(with_form)

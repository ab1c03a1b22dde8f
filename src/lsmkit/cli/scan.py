"""``lsmkit scan``: a range of keys and values, in order."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from lsmkit.cli.form import Form, form_options
from lsmkit.cli.opening import keyspace_option, reading
from lsmkit.cli.output import write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import lsmkit

LINES_A_WRITE = 1000


@click.command()
@click.argument("store")
@click.option("--prefix", help="Only keys that begin with it.")
@click.option("--start", help="First key, inclusive.")
@click.option("--stop", help="End of the range, exclusive.")
@click.option("--limit", type=click.IntRange(min=0), help="At most so many.")
@click.option("--reverse", is_flag=True, help="From the greatest key down.")
@click.option("--keys-only", is_flag=True, help="Without the values.")
@keyspace_option
@form_options
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
def scan(
    store: str,
    prefix: str | None,
    start: str | None,
    stop: str | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    keyspace: str | None,
    form: Form,
    as_json: bool,
) -> None:
    r"""Print key, tab, value, a line each, in key order.

    What cannot be printed is escaped (\\ \t \n \r \xHH), so that a line is always a row:
    `lsmkit load STORE - --format pairs` reads the lines back, and --escape a key or value out of
    them. With --json, bytes that are not UTF-8 stand as base64 under key_base64 and value_base64.
    """
    if prefix is not None and (start is not None or stop is not None):
        raise click.UsageError("--prefix goes without --start and --stop")
    where: dict[str, Any] = {"reverse": reverse}
    for name, text in (("prefix", prefix), ("start", start), ("stop", stop)):
        if text is not None:
            where[name] = form.read_bound(text, f"--{name}")
    with reading(store, keyspace) as db:
        write_lines(lines(db, where, keys_only, limit, line_maker(form, keys_only, as_json)))


def line_maker(form: Form, keys_only: bool, as_json: bool) -> Callable[..., str]:
    """The function that makes a line of a key, or of a key and a value."""
    if as_json:

        def json_line(key: bytes, value: bytes = b"") -> str:
            fields = form.key_fields(key)
            if not keys_only:
                fields.update(form.fields("value", value))
            return json.dumps(fields, ensure_ascii=False)

        return json_line
    if keys_only:
        return form.show_key
    return lambda key, value: f"{form.show_key(key)}\t{form.show(value)}"


def lines(
    db: lsmkit.DB | lsmkit.Keyspace,
    where: dict[str, Any],
    keys_only: bool,
    limit: int | None,
    line: Callable[..., str],
) -> Iterator[str]:
    if keys_only:
        return map(line, islice(db.scan_keys(**where), limit))
    return (line(key, value) for key, value in islice(db.scan(**where), limit))


def write_lines(source: Iterator[str]) -> None:
    while some := list(islice(source, LINES_A_WRITE)):
        write_bytes(("\n".join(some) + "\n").encode("utf-8", "surrogateescape"))

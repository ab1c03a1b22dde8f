"""``lsmkit get``: one value to stdout."""

from __future__ import annotations

import sys

import click

from lsmkit.cli.form import Form, form_options
from lsmkit.cli.opening import keyspace_option, reading
from lsmkit.cli.output import CommandError, write_bytes, write_json, write_line


@click.command()
@click.argument("store")
@click.argument("key")
@keyspace_option
@form_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object; null where no key is.")
def get(store: str, key: str, keyspace: str | None, form: Form, as_json: bool) -> None:
    """Print the value of KEY.

    The value's bytes go out as they are, with a newline behind them only on a terminal. Exit
    code 1 when there is no such key.
    """
    wanted = form.read_key(key)
    with reading(store, keyspace) as db:
        value = db.get(wanted)
    if as_json:
        found = {"value": None} if value is None else form.fields("value", value)
        write_json({**form.key_fields(wanted), **found})
    if value is None:
        raise CommandError(f"{store}: no key {form.show_key(wanted)}", code=1)
    if as_json:
        return
    if form.name == "text":
        write_bytes(value + b"\n" if sys.stdout.isatty() else value)
    else:
        write_line(form.show(value))

"""``lsmkit put``: one key and its value."""

from __future__ import annotations

import sys

import click

from lsmkit.cli.form import Form, form_options
from lsmkit.cli.opening import keyspace_option, writing
from lsmkit.cli.output import write_json


@click.command()
@click.argument("store")
@click.argument("key")
@click.argument("value")
@keyspace_option
@form_options
@click.option("--json", "as_json", is_flag=True, help="Say what was written as a JSON object.")
def put(store: str, key: str, value: str, keyspace: str | None, form: Form, as_json: bool) -> None:
    """Set KEY to VALUE; a store, or a keyspace, that is not there is made.

    VALUE - is stdin, whose bytes are taken as they are whatever the form.
    """
    key_bytes = form.read_key(key)
    data = sys.stdin.buffer.read() if value == "-" else form.read(value, "VALUE")
    with writing(store, keyspace, create=True) as db:
        db.put(key_bytes, data)
    if as_json:
        write_json({**form.key_fields(key_bytes), "value_bytes": len(data)})

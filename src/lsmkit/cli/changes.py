"""``lsmkit changes``: what was committed, in order."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

import lsmkit
from lsmkit.cli.form import Form, form_options
from lsmkit.cli.output import write_line


@click.command()
@click.argument("store")
@click.option("--since", default=0, type=click.IntRange(min=0), help="After this sequence.")
@click.option("--follow", is_flag=True, help="Wait for more, until interrupted.")
@click.option("--prefix", help="Only keys that begin with it.")
@form_options
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
def changes(
    store: str, since: int, follow: bool, prefix: str | None, form: Form, as_json: bool
) -> None:
    """Print what was committed, in order: sequence, kind, key and value of each change.

    There is as much as the log holds, and what the store keeps beside it (retain_log_bytes). Of a
    deleted range the value is the key that it ends before. Another process may have STORE open.
    """
    begins = None if prefix is None else form.read_bound(prefix, "--prefix")
    with lsmkit.open(store, create_if_missing=False, read_only=True, follow=True) as db:
        for change in db.changes(since, prefix=begins, follow=follow):
            write_line(json_line(form, change) if as_json else line(form, change))
            if follow:
                sys.stdout.flush()


def line(form: Form, change: lsmkit.Change) -> str:
    fields = [str(change.seq), change.kind, form.show_key(change.key)]
    if change.value is not None:
        show = form.show_key if change.kind == "delete_range" else form.show
        fields.append(show(change.value))
    return "\t".join(fields)


def json_line(form: Form, change: lsmkit.Change) -> str:
    fields: dict[str, Any] = {"seq": change.seq, "kind": change.kind}
    fields.update(form.key_fields(change.key))
    if change.value is not None:
        fields.update(form.fields("value", change.value))
    if change.until is not None:
        fields["until"] = change.until
    return json.dumps(fields, ensure_ascii=False)

"""``lsmkit delete``: keys and their values go."""

from __future__ import annotations

import click

from lsmkit.cli.form import Form, form_options
from lsmkit.cli.opening import keyspace_option, writing
from lsmkit.cli.output import write_json


@click.command()
@click.argument("store")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@keyspace_option
@form_options
@click.option("--json", "as_json", is_flag=True, help="Say what was deleted as a JSON object.")
def delete(
    store: str, keys: tuple[str, ...], keyspace: str | None, form: Form, as_json: bool
) -> None:
    """Delete every KEY, all of them or none.

    A key that is not there is no error, as in the library.
    """
    wanted = [form.read_key(key) for key in keys]
    with writing(store, keyspace) as db:
        db.delete_many(wanted)
    if as_json:
        write_json({"deleted": [form.key_fields(key) for key in wanted]})

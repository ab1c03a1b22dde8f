"""The commands, gathered under one name."""

from __future__ import annotations

import click

import lsmkit
from lsmkit.cli import EXIT_USAGE
from lsmkit.cli.changes import changes
from lsmkit.cli.checkpoint import checkpoint
from lsmkit.cli.compact import compact
from lsmkit.cli.delete import delete
from lsmkit.cli.demo import demo
from lsmkit.cli.dump import dump
from lsmkit.cli.get import get
from lsmkit.cli.keyspaces import keyspaces
from lsmkit.cli.load import load
from lsmkit.cli.output import note
from lsmkit.cli.put import put
from lsmkit.cli.repair import repair
from lsmkit.cli.scan import scan
from lsmkit.cli.stats import stats
from lsmkit.cli.top import top
from lsmkit.cli.verify import verify


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(lsmkit.__version__, prog_name="lsmkit", message="%(prog)s %(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """An embedded, crash-safe, log-structured store: look into one, fill one, check one."""
    if context.invoked_subcommand is None:
        note(context.get_help())
        context.exit(EXIT_USAGE)


for command in (
    load,
    get,
    put,
    delete,
    scan,
    stats,
    top,
    keyspaces,
    verify,
    compact,
    checkpoint,
    changes,
    repair,
    dump,
    demo,
):
    group.add_command(command)

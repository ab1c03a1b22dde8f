"""The command line: ``lsmkit COMMAND STORE ARGS``, one module a command.

Exit codes: 0; 1 for a key that is not there or a check that failed; 2 for wrong usage, bad input
and everything that kept the command from doing its work; 130 after an interrupt. What a program
reads goes to stdout, everything else to stderr; an error is one line there.

Needs click and rich (``pip install lsmkit[cli]``); ``import lsmkit`` never comes here.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141  # what a shell reports of a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; ``argv`` is without the program's name."""
    try:
        import click
        import rich  # noqa: F401  (asked for here so that its absence is told in one line too)
    except ModuleNotFoundError as error:
        print(
            f"lsmkit: the command line needs {error.name}: pip install 'lsmkit[cli]'",
            file=sys.stderr,
        )
        return EXIT_USAGE

    import lsmkit
    from lsmkit.cli.group import group
    from lsmkit.cli.output import CommandError, note

    try:
        # Not group.main(), which answers a closed pipe itself, with the code of a missing key.
        arguments = list(sys.argv[1:] if argv is None else argv)
        with group.make_context("lsmkit", arguments) as context:
            code = group.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        asked = getattr(error, "ctx", None)
        name = asked.command_path if asked is not None else "lsmkit"
        note(f"{name}: {error.format_message()} (see {name} --help)")
        return EXIT_USAGE
    except CommandError as error:
        note(f"lsmkit: {error}")
        return error.code
    except (click.Abort, KeyboardInterrupt):
        note("lsmkit: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has gone. The interpreter must not try to flush what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except (lsmkit.Error, OSError, ValueError) as error:
        # A ValueError is what the store refuses by range: a key that is too long, for example.
        note(f"lsmkit: {error_text(error)}")
        return EXIT_USAGE


def error_text(error: Exception) -> str:
    """What went wrong and where, without the errno that an OSError begins with."""
    text = str(error)
    if isinstance(error, OSError) and text.startswith("[Errno") and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        text = f"{where}{error.strerror}"
    return " ".join(text.split("\n"))

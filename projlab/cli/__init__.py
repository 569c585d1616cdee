"""The command line, `projlab COMMAND`: one file a command, all of them listed in `COMMANDS`.

It starts without torch; a command imports the suite where it needs it.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from projlab import __version__
from projlab.cli import bench, compare, report, validate, variants
from projlab.cli.common import EXIT_CODES, INTERRUPTED, Command
from projlab.cli.frame import drop_output_if_lost, guarded, let_output_degrade

COMMANDS = (validate.COMMAND, compare.COMMAND, bench.COMMAND, report.COMMAND, variants.COMMAND)
"""In the order of `projlab --help`."""

EPILOG = f"""
examples:
  projlab variants
  projlab validate --profile quick
  projlab compare system.npz
  projlab report runs/quick

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    let_output_degrade()
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit:
        drop_output_if_lost()  # of --help, whose reader may have left
        raise
    command: Command = options.command
    # `timeout`, CI and `kill` end a run as Ctrl-C does, so that no worker goes on without it.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return guarded(lambda: command.run(options), command.no_room)
    except KeyboardInterrupt:
        print(f"projlab: interrupted; {command.interrupted}", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="projlab",
        description="Projection onto {x : A x = b}: which method is right to how many digits.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"projlab {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(command=command)
    return parser

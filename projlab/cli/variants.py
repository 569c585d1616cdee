"""`projlab variants`: list the registry."""

import argparse

from projlab.cli.common import FORMAT, HELD, Command, print_json

EPILOG = """
examples:
  projlab variants
  projlab variants --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `projlab variants`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """List the registry."""
    from projlab.engine.variants import REGISTRY

    if options.json:
        listed = [{"name": variant.name, "summary": variant.summary} for variant in REGISTRY]
        print_json({"format": FORMAT, "variants": listed})
    else:
        width = max(len(variant.name) for variant in REGISTRY)
        for variant in REGISTRY:
            print(f"{variant.name:<{width}}  {variant.summary}")
    return HELD


COMMAND = Command(
    name="variants",
    help="list the ways to project",
    description="List the ways to project, by the name that `variant=` takes.",
    epilog=EPILOG,
    add_arguments=add_arguments,
    run=run,
)

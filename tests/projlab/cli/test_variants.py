"""`projlab variants` lists the registry."""

import json

import projlab
from projlab.cli import main


def test_variants_lists_the_registry(capsys):
    assert main(["variants"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert tuple(listed) == projlab.variants()
    assert main(["variants", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == 1
    names = [variant["name"] for variant in told["variants"]]
    assert tuple(names) == projlab.variants()

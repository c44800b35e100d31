"""The examples in the help of each verb: every verb has some, and each is a command line that its verb takes."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from cdp.cli.examples import EXAMPLES
from cdp.cli.main import app


def verbs() -> dict[str, Any]:
    made: Any = typer.main.get_command(app)
    return {name: verb for name, verb in made.commands.items() if not hasattr(verb, "commands")}


def test_every_verb_has_examples() -> None:
    assert EXAMPLES.keys() == verbs().keys()


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_can_be_pasted(line: str) -> None:
    program, name, *words = shlex.split(line)
    assert program == "cdp"
    verbs()[name].make_context(name, words)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_shows_them(name: str) -> None:
    verb = verbs()[name]
    assert verb.epilog
    assert all(line in verb.epilog for line in EXAMPLES[name])

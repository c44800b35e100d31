"""`cdp group`: volumes that have common instants."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import WHEN_HELP, JsonOption, StoreOption, opened
from cdp.cli.output import human_time, print_facts, print_json, print_table, warn
from cdp.errors import Invalid
from cdp.group_facts import GroupFacts, GroupGapFacts, GroupInstantFacts, GroupShowFacts
from cdp.when import parse

app = typer.Typer(
    name="group",
    help="Volumes that go back to one common instant.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="Name (or ID) of the group.", show_default=False)]
VolumesArgument = Annotated[list[str], typer.Argument(metavar="VOLUME…", help="Its volumes.", show_default=False)]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group", metavar="GROUP", help="All volumes of a group at once, instead of VOLUME.", show_default=False
    ),
]

_WHY = {
    "crash": "crash: writes that were answered may be lost",
    "clock": "the clock was set back",
    "rollback": "rollback of the group",
}


def one_of(volume: str | None, group: str | None) -> str:
    """What `--group` verbs work on, or Invalid: the one of the two that was given."""
    if (volume is None) == (group is None):
        raise Invalid("give a VOLUME, or --group GROUP")
    return volume or group or ""


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The group's name.", show_default=False)],
    volumes: VolumesArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a group of volumes, which may be in others too."""
    with opened(context, store) as verbs:
        _print(verbs.groups.create(name, volumes), as_json=as_json)


@app.command("list")
def list_groups(context: typer.Context, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the groups."""
    with opened(context, store) as verbs:
        groups = verbs.groups.list()
    if as_json:
        print_json(groups)
        return
    rows = [(it.name or f"damaged {it.id}", it.state, _names(it), human_time(it.made_stamp), it.id) for it in groups]
    print_table(("NAME", "STATE", "VOLUMES", "CREATED", "ID"), rows)
    for it in groups:
        for problem in it.problems:
            warn(problem)


@app.command(epilog=WHEN_HELP)
def show(
    context: typer.Context,
    group: GroupArgument,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Print the group's views at this one instant: VOLUME@TIME, a line each.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a group: its volumes, its common instants, the gaps between them, and its bookmarks."""
    with opened(context, store) as verbs:
        if at is not None:
            _print_instant(verbs.groups.resolve(group, parse(at)), as_json=as_json)
            return
        facts = verbs.groups.show(group)
    if as_json:
        print_json(facts)
    else:
        _print_show(facts)


@app.command()
def rename(
    context: typer.Context,
    group: GroupArgument,
    name: Annotated[str, typer.Argument(metavar="NEW", help="The new name.", show_default=False)],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a group another name."""
    with opened(context, store) as verbs:
        _print(verbs.groups.rename(group, name), as_json=as_json)


@app.command()
def add(
    context: typer.Context,
    group: GroupArgument,
    volumes: VolumesArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take more volumes into a group."""
    with opened(context, store) as verbs:
        _print(verbs.groups.add(group, volumes), as_json=as_json)


@app.command()
def remove(
    context: typer.Context,
    group: GroupArgument,
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="Name (or ID) of the volume.", show_default=False)],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a volume out of a group. Both stay."""
    with opened(context, store) as verbs:
        _print(verbs.groups.remove(group, volume), as_json=as_json)


@app.command()
def delete(
    context: typer.Context, group: GroupArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Remove a group. Its volumes and their history stay."""
    with opened(context, store) as verbs:
        facts = verbs.groups.delete(group)
    if as_json:
        print_json(facts)
    else:
        print(f"removed the group {facts.name or facts.id}; its volumes stay")


def _print(facts: GroupFacts, *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print(f"group {facts.name}: {_names(facts)}")


def _names(facts: GroupFacts) -> str:
    return ", ".join(it.name or it.id for it in facts.volumes) or "-"


def _print_instant(facts: GroupInstantFacts, *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for it in facts.volumes:
        print(it.export)


def _print_show(facts: GroupShowFacts) -> None:
    it = facts.group
    print_facts(
        {
            "name": it.name,
            "id": it.id,
            "state": it.state,
            "created": human_time(it.made_stamp),
            "volumes": _names(it),
            "oldest": None if facts.oldest_stamp is None else human_time(facts.oldest_stamp),
            "latest": None if facts.latest_stamp is None else human_time(facts.latest_stamp),
            "undo goes to": None if facts.undo_stamp is None else human_time(facts.undo_stamp),
        }
    )
    if facts.gaps:
        print()
        print_table(("NO INSTANT FROM", "BEFORE", "WHY"), [_gap_row(gap) for gap in facts.gaps])
    if facts.bookmarks:
        print()
        print_table(("BOOKMARK", "TIME"), [(mark.name, human_time(mark.stamp)) for mark in facts.bookmarks])
    for sentence in (facts.unfinished, *facts.problems):
        if sentence:
            warn(sentence)


def _gap_row(gap: GroupGapFacts) -> tuple[str, str, str]:
    where = "" if gap.volume is None else f" ({gap.volume})"
    until = "it has not ended" if gap.until_stamp is None else human_time(gap.until_stamp)
    return human_time(gap.since_stamp), until, _WHY.get(gap.kind, gap.kind) + where

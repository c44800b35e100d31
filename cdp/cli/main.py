"""`cdp`: the verbs.

Invariant:
- Starting is cheap: a verb loads what it needs when it runs, and help loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from cdp import __version__
from cdp.cli import (
    accept_origin,
    attach,
    bookmark,
    clone,
    compact,
    config,
    cp,
    create,
    delete,
    detach,
    diff,
    group,
    log,
    ls,
    rename,
    resize,
    restore,
    retention,
    rollback,
    scratch,
    serve,
    show,
    undelete,
    verify,
)
from cdp.cli import list as list_verb
from cdp.cli.examples import epilog
from cdp.cli.options import WHEN_HELP, StoreOption
from cdp.cli.run import run

app = typer.Typer(
    name="cdp",
    help="Continuous data protection for block volumes: every write is a recovery point.",
    epilog=WHEN_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cdp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    store: StoreOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


_PANELS: dict[str, tuple[tuple[str, Callable[..., None]], ...]] = {
    "Volumes": (
        ("create", create.create),
        ("serve", serve.serve),
        ("list", list_verb.list_volumes),
        ("show", show.show),
        ("rename", rename.rename),
        ("resize", resize.resize),
        ("delete", delete.delete),
        ("undelete", undelete.undelete),
    ),
    "What was": (
        ("log", log.log),
        ("bookmark", bookmark.bookmark),
        ("diff", diff.diff),
        ("restore", restore.restore),
        ("rollback", rollback.rollback),
        ("clone", clone.clone),
        ("scratch", scratch.scratch),
    ),
    "Block devices and files": (
        ("attach", attach.attach),
        ("detach", detach.detach),
        ("ls", ls.ls),
        ("cp", cp.cp),
    ),
    "Space and health": (
        ("retention", retention.retention),
        ("compact", compact.compact),
        ("verify", verify.verify),
        ("accept-origin", accept_origin.accept_origin),
    ),
}
_TERMS = dict.fromkeys(("log", "bookmark", "diff", "restore", "rollback", "clone", "attach", "ls", "cp"), WHEN_HELP) | {
    "retention": retention.TERMS_HELP
}
for _panel, _verbs in _PANELS.items():
    for _name, _verb in _verbs:
        app.command(
            _name,
            epilog=epilog(_name, _TERMS.get(_name)),
            context_settings=diff.CONTEXT_SETTINGS if _name == "diff" else None,
            rich_help_panel=_panel,
        )(_verb)
app.add_typer(config.app)
app.add_typer(group.app)


def main() -> None:
    """The entry point of `cdp`."""
    run(app, "cdp")


if __name__ == "__main__":
    main()

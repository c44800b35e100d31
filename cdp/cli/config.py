"""`cdp config`: the daemon's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdp.cli.options import StoreOption, store_folder

app = typer.Typer(name="config", help="Check the daemon's configuration file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """With one verb, typer would make the group itself the verb."""


@app.command("check")
def check(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Default: STORE/cdp.toml; for root and its default store also /etc/cdp/cdp.toml.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Check a configuration file as `cdp serve` would: exit code 2, and a line FILE:LINE: SENTENCE for each fault. Files for TLS are read too."""
    from cdp import configuration  # noqa: PLC0415
    from cdp.tls import Tls  # noqa: PLC0415

    path = configuration.find(store_folder(context, store), file)
    if path is None:
        print("there is no configuration: the defaults count")
        return
    said = configuration.read(path)
    if said.tls.mode is not Tls.OFF:
        from cdp.security import load  # noqa: PLC0415 (the native module: only who uses TLS waits for it)

        load(said.tls)
    print(f"{path} is good")

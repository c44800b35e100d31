"""`cdp serve`: the daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import StoreOption, store_folder


def serve(
    context: typer.Context,
    *,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="unix:PATH|tcp:HOST:PORT",
            help="Where to serve NBD; may be given several times. Port 0 takes any free one. Default: unix:STORE/nbd.sock.",
            show_default=False,
        ),
    ] = None,
    insecure_tcp: Annotated[
        bool,
        typer.Option("--insecure-tcp", help="Serve on addresses that other machines reach. Nothing keeps them out."),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="tcp:HOST:PORT",
            help="Also serve GET /metrics for Prometheus here. STORE/control.sock always does.",
            show_default=False,
        ),
    ] = None,
    ready_fd: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Also write a line `ready` to this descriptor, and close it, when all sockets accept.",
            show_default=False,
            min=0,
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell of each session on standard error.")] = False,
    store: StoreOption = None,
) -> None:
    """Serve every volume over NBD until SIGTERM or SIGINT.

    Prints a line `listening URI` for each address and then a line `ready`. Commands reach the daemon by STORE/control.sock.
    An export is a volume's NAME, or NAME@WHEN: the volume as it was, read-only.
    """
    from cdp.sockets import parse_address, parse_tcp  # noqa: PLC0415

    addresses = tuple(parse_address(text) for text in listen or ())
    scraped = None if metrics is None else parse_tcp(metrics)
    from cdp import daemon  # noqa: PLC0415 (trio, the native module and the web framework: nobody else needs them)

    daemon.set_up_logging(verbose=verbose)
    daemon.run(daemon.Settings(store_folder(context, store), addresses, insecure_tcp, ready_fd, scraped))

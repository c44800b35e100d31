"""`cdp serve`: the daemon."""

from __future__ import annotations

from pathlib import Path
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
    tls: Annotated[
        str,
        typer.Option(
            metavar="off|on|require",
            help="TLS: none, for clients that start it, or for every client on TCP.",
        ),
    ] = "off",
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The server's certificate, PEM, with those between it and its authority."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM, without a passphrase.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Authorities, PEM: who starts TLS must have a certificate of one of them.",
            show_default=False,
        ),
    ] = None,
    tls_access: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rules, TOML: which certificate may open what. Without, each opens everything.",
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
    from cdp.sockets import parse_address  # noqa: PLC0415

    addresses = tuple(parse_address(text) for text in listen or ())
    from cdp import daemon  # noqa: PLC0415 (trio, the native module and the web framework: nobody else needs them)
    from cdp.security import TlsSettings, tls_mode  # noqa: PLC0415

    daemon.set_up_logging(verbose=verbose)
    secure = TlsSettings(tls_mode(tls), tls_cert, tls_key, tls_client_ca, tls_access)
    daemon.run(daemon.Settings(store_folder(context, store), addresses, insecure_tcp, ready_fd, secure))

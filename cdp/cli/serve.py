"""`cdp serve`: the daemon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cdp.cli.options import StoreOption, store_folder


def serve(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Configuration (docs/operations.md). Default: STORE/cdp.toml; for root and its default store also /etc/cdp/cdp.toml. "
            "Options stand above it.",
            show_default=False,
        ),
    ] = None,
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
        str | None,
        typer.Option(
            metavar="off|on|require",
            help="TLS: none (the default), for clients that start it, or for every client on TCP.",
            show_default=False,
        ),
    ] = None,
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
    from cdp import configuration, logs  # noqa: PLC0415 (help needs none of it)
    from cdp.sockets import parse_address, parse_tcp  # noqa: PLC0415

    folder = store_folder(context, store)
    said = configuration.for_store(folder, config)
    wanted = replace(
        said,
        listen=tuple(parse_address(text) for text in listen) if listen else said.listen,
        insecure_tcp=insecure_tcp or said.insecure_tcp,
        tls=said.tls.with_options(tls, tls_cert, tls_key, tls_client_ca, tls_access),
        metrics=parse_tcp(metrics) if metrics else said.metrics,
        log_level="info" if verbose and said.log_level != "debug" else said.log_level,
    )
    logs.set_up(wanted.log_level, wanted.log_format)
    from cdp import daemon  # noqa: PLC0415 (trio, the native module and the web framework: nobody else needs them)

    daemon.run(daemon.Settings(folder, wanted, ready_fd))

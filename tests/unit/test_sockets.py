"""Listening: what an address is, what is replaced, and what is refused."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from cdp.configuration import parse
from cdp.errors import Busy, Invalid
from cdp.sockets import (
    TcpAddress,
    UnixAddress,
    answers,
    is_loopback,
    listen_tcp,
    listen_unix,
    parse_address,
    parse_tcp,
    unix_name,
    uri,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x.sock", UnixAddress(Path("/run/x.sock"))),
        ("unix:x:y", UnixAddress(Path("x:y"))),
        ("tcp:127.0.0.1:10809", TcpAddress("127.0.0.1", 10809)),
        ("tcp:localhost:0", TcpAddress("localhost", 0)),
        ("tcp:[::1]:10809", TcpAddress("::1", 10809)),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "unix:", "tcp:", "tcp:host", "tcp:host:", "tcp::1", "tcp:host:65536", "tcp:::1:5", "/x", "udp:h:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Invalid):
        parse_address(text)


def test_what_is_this_machine_only() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")] == [False] * 5


def test_a_socket_is_its_owners_and_is_removed_from_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen_unix(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert answers(path)
        with pytest.raises(Busy):
            listen_unix(path)
    assert path.exists()
    assert not answers(path)
    with listen_unix(path):
        assert answers(path)


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(Invalid, match="left alone"):
        listen_unix(path)
    assert path.read_text() == "mine"


def test_a_path_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = folder / "s"
    with listen_unix(path):
        assert path.is_socket()
        with unix_name(path) as name, socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
        assert len(os.fsencode(path)) > 107


def test_tcp_beyond_loopback_has_to_be_asked_for() -> None:
    with pytest.raises(Invalid, match="--insecure-tcp"):
        listen_tcp(TcpAddress("0.0.0.0", 0), insecure=False)
    for listener in listen_tcp(TcpAddress("0.0.0.0", 0), insecure=True):
        listener.close()


def test_an_address_is_told_as_it_is_written() -> None:
    for text in ("tcp:[::]:10999", "tcp:0.0.0.0:10999"):
        with pytest.raises(Invalid, match=f"^{re.escape(text)} can be reached .* --tls require"):
            listen_tcp(parse_tcp(text), insecure=False)


def test_where_tls_does_not_help_it_is_not_advised() -> None:
    for refused in (
        lambda: listen_tcp(parse_tcp("tcp:[::]:1"), insecure=False, tls=False),
        lambda: parse(b"[metrics]\nlisten = 'tcp:0.0.0.0:1'"),
    ):
        with pytest.raises(Invalid, match=r"keeps them out: --insecure-tcp"):
            refused()


def test_tcp_on_any_free_port_tells_which() -> None:
    (listener,) = listen_tcp(TcpAddress("127.0.0.1", 0), insecure=False)
    with listener:
        assert uri(listener) == f"nbd://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Busy):
            listen_tcp(TcpAddress("127.0.0.1", listener.getsockname()[1]), insecure=False)

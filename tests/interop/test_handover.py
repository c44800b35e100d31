"""From the negotiation into the transmission phase of the real daemon: nothing is lost at the seam, however the client enters.

Clients that write the bytes themselves send requests without waiting for the end of the handshake, which no library does.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import nbd
import pytest

from tests.rig.content import DISK_BYTES, content
from tests.rig.daemon import Daemon, Transport
from tests.rig.process import run
from tests.unit.nbd_dialogue import EXPORT_NAME, GO, GREETING, STRUCTURED, client_flags, info, option

MIB = 1 << 20


@contextmanager
def connected(served: Daemon, transport: Transport) -> Iterator[socket.socket]:
    """A socket that has read the greeting."""
    family, address = (
        (socket.AF_UNIX, str(served.socket)) if transport == "unix" else (socket.AF_INET, ("127.0.0.1", served.port))
    )
    with socket.socket(family) as client:
        client.settimeout(60)
        client.connect(address)
        assert read(client, len(GREETING)) == GREETING
        yield client


def read(client: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = client.recv(count - len(got))
        assert piece, f"hung up after {len(got)} of {count} bytes"
        got += piece
    return bytes(got)


def read_negotiation(client: socket.socket) -> None:
    """Option replies up to the acknowledgement of GO."""
    while True:
        _, number, kind, length = struct.unpack(">QIII", read(client, 20))
        read(client, length)
        if (number, kind) == (GO, 1):
            return


def request(command: int, cookie: int, offset: int, length: int) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, offset, length)


def simple_reply(client: socket.socket) -> tuple[int, int]:
    """(error, cookie)"""
    magic, error, cookie = struct.unpack(">IIQ", read(client, 16))
    assert magic == 0x67446698
    return error, cookie


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
def test_libnbd_reads_what_it_wrote_with_every_set_of_handshake_flags(
    served: Daemon, disk: str, bits: int, transport: Transport
) -> None:
    handle = nbd.NBD()
    handle.set_handshake_flags(bits)
    handle.set_uri_allow_local_file(True)
    handle.connect_uri(served.uri(disk, transport=transport))
    data = content(MIB, bits)
    handle.pwrite(data, 512)
    assert handle.pread(MIB, 512) == data
    handle.shutdown()


@pytest.mark.parametrize("enter", ["go", "export name"])
def test_requests_sent_behind_the_last_option_are_answered(
    served: Daemon, disk: str, transport: Transport, enter: str
) -> None:
    data = content(300_000, disk)
    last = option(GO, info(disk)) if enter == "go" else option(EXPORT_NAME, disk.encode())
    sent = client_flags() + last + request(1, 1, 1000, len(data)) + data + request(3, 2, 0, 0)
    with connected(served, transport) as client:
        client.sendall(sent)
        if enter == "go":
            read_negotiation(client)
        else:
            assert struct.unpack(">Q", read(client, 10)[:8]) == (DISK_BYTES,)
        assert simple_reply(client) == (0, 1)
        assert simple_reply(client) == (0, 2)
        client.sendall(request(0, 3, 1000, len(data)))
        assert simple_reply(client) == (0, 3)
        assert read(client, len(data)) == data


def test_structured_replies_begin_with_the_first_request(served: Daemon, disk: str) -> None:
    with connected(served, "unix") as client:
        client.sendall(client_flags() + option(STRUCTURED) + option(GO, info(disk)) + request(0, 7, 0, 4096))
        read_negotiation(client)
        magic, _, _, cookie, _ = struct.unpack(">IHHQI", read(client, 20))
        assert (magic, cookie) == (0x668E33EF, 7)


def test_idle_connections_lock_nobody_out(served: Daemon, disk: str) -> None:
    idle = []
    try:
        for _ in range(300):
            client = socket.socket(socket.AF_UNIX)
            idle.append(client)
            client.settimeout(60)
            client.connect(str(served.socket))
        assert run("nbdinfo", "--size", served.uri(disk)).stdout.strip() == str(DISK_BYTES)
    finally:
        for client in idle:
            client.close()


def test_the_default_export_is_the_only_volume(daemon: Daemon) -> None:
    def default_size() -> int:
        handle = nbd.NBD()
        handle.connect_unix(str(daemon.socket))
        size: int = handle.get_size()
        handle.shutdown()
        return size

    with pytest.raises(nbd.Error):
        default_size()
    daemon.cdp("create", "first", "--size", "64MiB")
    assert default_size() == 64 * MIB
    daemon.cdp("create", "second", "--size", "64MiB")
    with pytest.raises(nbd.Error):
        default_size()

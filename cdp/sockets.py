"""Listening sockets: Unix sockets that replace what a dead daemon left, and TCP on loopback.

Invariants:
- A Unix socket is replaced only if nobody answers on it; whatever else stands at its path is left alone.
- TCP beyond loopback is bound only where TLS keeps strangers out, or when it was asked for in so many words.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cdp import files
from cdp.errors import Busy, Invalid

UNIX_PATH_BYTES_MAX = 107
MODE = 0o600
"""Of a Unix socket, unless it is told otherwise."""
_BACKLOG = 1024
_TCP = re.compile(r"tcp:(\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path


@dataclass(frozen=True, slots=True)
class SocketTerms:
    """Who may use a Unix socket: the numbers of its owner and group (None: those of the process), and its mode."""

    owner: int | None = None
    group: int | None = None
    mode: int = MODE


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        """As `parse_address` reads it."""
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


def parse_address(text: str) -> Address:
    """`unix:PATH` or `tcp:HOST:PORT` (an IPv6 address in brackets; port 0: any). Invalid if it is neither."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return UnixAddress(Path(text.removeprefix("unix:")))
    found = _TCP.fullmatch(text)
    if found and int(found[2]) <= 65535:
        return TcpAddress(found[1].strip("[]"), int(found[2]))
    raise Invalid(f"{text[:200]!r} is no address to listen on: unix:PATH or tcp:HOST:PORT")


def parse_tcp(text: str) -> TcpAddress:
    """`tcp:HOST:PORT`. Invalid if it is not."""
    address = parse_address(text)
    if isinstance(address, UnixAddress):
        raise Invalid(f"{text[:200]!r} is no TCP address: tcp:HOST:PORT")
    return address


def is_loopback(host: str) -> bool:
    """Whether a host is this machine only. A name counts only if it is `localhost`: others may resolve to anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def unix_name(path: Path) -> Iterator[str]:
    """A name to bind or to connect to for a path of any length: the kernel takes 107 bytes, and longer ones by way of the folder."""
    if len(os.fsencode(path)) <= UNIX_PATH_BYTES_MAX:
        yield str(path)
        return
    with files.os_errors(f"opening {path.parent}"):
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with unix_name(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(name)
        except OSError as error:
            # A full queue is the sign of somebody who is there.
            return error.errno == errno.EAGAIN
        return True


def listen_unix(path: Path, terms: SocketTerms | None = None) -> socket.socket:
    """A listening socket that those whom `terms` name may connect to. Busy if somebody listens there, Invalid if a file stands there."""
    with files.os_errors(f"listening on {path}"):
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise Invalid(f"{path} is not a socket, and is left alone")
            if answers(path):
                raise Busy(f"somebody else listens on {path}")
            path.unlink()
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The socket is its owner's as it appears: no moment in which others than those who may could connect.
            before = os.umask(0o177)
            try:
                with unix_name(path) as name:
                    listener.bind(name)
            finally:
                os.umask(before)
            _give(path, terms or SocketTerms())
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener


def _give(path: Path, terms: SocketTerms) -> None:
    # Its group first gets the socket, then the right to it.
    if terms.owner is not None or terms.group is not None:
        os.chown(path, -1 if terms.owner is None else terms.owner, -1 if terms.group is None else terms.group)
    if terms.mode != MODE:
        os.chmod(path, terms.mode)


def check_exposure(address: TcpAddress, *, insecure: bool, tls: bool = True) -> None:
    """Invalid for an address that other machines reach, unless `insecure`. `tls`: whether what is served there can speak it."""
    if not insecure and not is_loopback(address.host):
        helps = "--tls require with --tls-client-ca does; " if tls else ""
        raise Invalid(
            f"{address} can be reached by other machines, and nothing keeps them out: "
            f"{helps}--insecure-tcp (insecure_tcp = true) serves there all the same"
        )


def listen_tcp(address: TcpAddress, *, insecure: bool, tls: bool = True) -> list[socket.socket]:
    """Listening sockets for every address of the host. Invalid beyond loopback unless `insecure`. `tls`: as in `check_exposure`."""
    check_exposure(address, insecure=insecure, tls=tls)
    with files.os_errors(f"listening on {address}"):
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except socket.gaierror as error:
            raise Invalid(f"{address.host} is no host: {error.strerror}") from error
        listeners: list[socket.socket] = []
        try:
            for family, _, _, _, where in dict.fromkeys(found):
                # With port 0 every address of the host listens on the port that the first one got.
                port = listeners[0].getsockname()[1] if listeners else where[1]
                listeners.append(_listen(family, (where[0], port, *where[2:])))
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        return listeners


def uri(listener: socket.socket, *, tls: bool = False) -> str:
    """The NBD URI of a listening socket, without an export name. `tls`: TCP clients have to speak it."""
    if listener.family == socket.AF_UNIX:
        return f"nbd+unix:///?socket={listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "nbds" if tls else "nbd"
    return f"{scheme}://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"


def http_url(listener: socket.socket) -> str:
    """The URL of a listening TCP socket that speaks HTTP, without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def _listen(family: int, where: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener

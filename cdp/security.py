"""TLS as the daemon is told to do it: the files with its credentials and rules, looked at again for every client.

Invariants:
- A renewed certificate, key, client CA or list of rules counts from the next client on. What does not load is told in the log, once, and the
  last that did load counts on: a mistake in a file locks out nobody who was let in before.
- TLS is required of TCP clients only: on a Unix socket the file system says who may connect.
- With a client CA there is no TLS without a certificate of that CA. Without rules each such certificate opens everything; so does any
  client where there is no client CA.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdp import _native, access, files
from cdp.access import EVERYTHING, Grants, Rules
from cdp.errors import CdpError, Invalid
from cdp.nbd.states import TlsOffer
from cdp.tls import Tls, TlsSettings

if TYPE_CHECKING:
    from cdp.exports import StoreExports
    from cdp.nbd.exports import Exports

log = logging.getLogger("cdp.tls")

PEM_BYTES_MAX = 16 << 20
"""More than every authority that a system trusts."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files say. `stamps` tell when they have changed."""

    credentials: _native.TlsCredentials
    rules: Rules | None
    stamps: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Client:
    """A client with a TLS connection (`cdp.nbd.tls.Peer`)."""

    name: str
    exports: Exports


class TlsSecurity:
    """`cdp.nbd.tls.Security` over files. Raises what is wrong with them, when made and only then."""

    def __init__(self, settings: TlsSettings, exports: StoreExports) -> None:
        settings.check()
        self._settings = settings
        self._exports = exports
        self._lock = threading.Lock()
        self._told: tuple[object, ...] = ()
        self._loaded = load(self._settings)

    def offer(self, *, local: bool) -> TlsOffer:
        required = self._settings.mode is Tls.REQUIRE and not local
        return TlsOffer.REQUIRED if required else TlsOffer.OFFERED

    async def connection(self) -> _native.TlsConnection:
        # A look at four files, and only after a renewal more.
        return self._fresh().credentials.connection()

    async def peer(self, connection: _native.TlsConnection) -> Client:
        who = connection.peer()
        name, names = ("without a certificate", []) if who is None else who
        grants = self._grants(names)
        if grants == Grants():
            log.warning("the certificate %s is given no export", name)
        return Client(name, self._exports.granted(grants))

    def _grants(self, names: list[str]) -> Grants:
        rules = self._loaded.rules
        return EVERYTHING if rules is None else rules.grants(names)

    def _fresh(self) -> Loaded:
        with self._lock:
            stamps = _stamps(self._settings)
            if stamps not in (self._loaded.stamps, self._told):
                try:
                    self._loaded = load(self._settings)
                    log.warning("the files for TLS were read anew")
                except CdpError as error:
                    self._told = stamps
                    log.error("the files for TLS changed and are not used: %s", error)
            return self._loaded


def load(settings: TlsSettings) -> Loaded:
    """Invalid, NotFound or Io with what is wrong in which file. `settings` are checked, and not off."""
    # Looked at first: a file that changes while it is read is read again.
    stamps = _stamps(settings)
    assert settings.certificate is not None
    assert settings.key is not None
    authorities = None if settings.client_ca is None else _read(settings.client_ca)
    rules = None if settings.access is None else access.load(settings.access)
    try:
        credentials = _native.TlsCredentials(_read(settings.certificate), _read(settings.key), authorities)
    except Invalid as error:
        raise Invalid(f"TLS with {settings.certificate}: {error}") from error
    return Loaded(credentials, rules, stamps)


def _stamps(settings: TlsSettings) -> tuple[object, ...]:
    named = (settings.certificate, settings.key, settings.client_ca, settings.access)
    return tuple(_stamp(path) for path in named if path is not None)


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: Path) -> bytes:
    with files.os_errors(f"reading {path}"), path.open("rb") as file:
        content = file.read(PEM_BYTES_MAX + 1)
    if len(content) > PEM_BYTES_MAX:
        raise Invalid(f"{path} has more than {PEM_BYTES_MAX} bytes")
    return content

"""Certificates for a test: an authority, a server's, and clients', in folders as libnbd and QEMU want them."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme


class Authority:
    """An authority of its own, which nobody knows yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._ca = trustme.CA()
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def server(self) -> tuple[Path, Path]:
        """Certificate and key for a server on loopback; a later call writes others into the same files."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1")
        return _write(issued, self.folder / "server-cert.pem", self.folder / "server-key.pem")

    def client(
        self, name: str, *, expired: bool = False, known_server: Authority | None = None, called: str = ""
    ) -> Path:
        """The folder of a client with the common name `name` and the DNS name NAME.example. It believes this authority, or that of `known_server`."""
        folder = self.folder / (called or name)
        folder.mkdir()
        now = datetime.datetime.now(datetime.UTC)
        begin, end = now - datetime.timedelta(days=30), now + datetime.timedelta(days=-1 if expired else 365)
        issued = self._ca.issue_cert(f"{name}.example", common_name=name, not_before=begin, not_after=end)
        _write(issued, folder / "client-cert.pem", folder / "client-key.pem")
        (folder / "ca-cert.pem").write_bytes((known_server or self).path.read_bytes())
        return folder

    def stranger(self) -> Path:
        """The folder of a client that believes this authority, and has no certificate."""
        folder = self.folder / "stranger"
        folder.mkdir()
        (folder / "ca-cert.pem").write_bytes(self.path.read_bytes())
        return folder


def _write(issued: trustme.LeafCert, certificate: Path, key: Path) -> tuple[Path, Path]:
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key

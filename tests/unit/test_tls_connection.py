"""The native TLS connection against OpenSSL, without sockets: the same bytes whatever the pieces, and every refusal a sentence."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp import _native
from cdp.errors import Closed, Invalid
from tests.rig.certificates import Authority
from tests.rig.content import content

Pieces = Callable[[bytes], Iterator[bytes]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def alice(authority: Authority) -> Path:
    return authority.client("alice")


@pytest.fixture(scope="module")
def credentials(authority: Authority) -> _native.TlsCredentials:
    certificate, key = authority.server()
    return _native.TlsCredentials(certificate.read_bytes(), key.read_bytes(), authority.path.read_bytes())


class Client:
    """OpenSSL's end, and the way to the server's."""

    def __init__(self, server: _native.TlsConnection, who: Path, newest: ssl.TLSVersion, pieces: Pieces) -> None:
        context = ssl.create_default_context(cafile=str(who / "ca-cert.pem"))
        context.load_cert_chain(who / "client-cert.pem", who / "client-key.pem")
        context.maximum_version = newest
        self._server = server
        self._pieces = pieces
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    def exchange(self) -> bytes:
        """Carries bytes both ways until nothing is left; what the server decrypted."""
        plain = b""
        while True:
            sent = self._out.read()
            plain += b"".join(self._server.receive(piece) for piece in self._pieces(sent))
            answer = self._server.output()
            self._in.write(answer)
            if not sent and not answer:
                return plain

    def shake_hands(self) -> None:
        while True:
            try:
                return self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange()

    def read(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            got += self.tls.read(count - len(got))
        return got


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def single(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def ragged(data: bytes) -> Iterator[bytes]:
    rng = random.Random("ragged")
    while data:
        length = rng.choice([1, 5, 100, 20_000, 100_000])
        yield data[:length]
        data = data[length:]


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("pieces", [whole, single, ragged])
def test_bytes_arrive_whatever_the_pieces(
    credentials: _native.TlsCredentials, alice: Path, newest: ssl.TLSVersion, pieces: Pieces
) -> None:
    server = credentials.connection()
    client = Client(server, alice, newest, pieces)
    assert server.handshaking
    assert server.peer() is None
    client.shake_hands()
    client.exchange()
    assert not server.handshaking
    assert (server.agreed or "").startswith("TLSv1_3" if newest is ssl.TLSVersion.TLSv1_3 else "TLSv1_2")
    data = content(200_000, "there")
    client.tls.write(data)
    assert client.exchange() == data
    server.send(data[::-1])
    client.exchange()
    assert client.read(len(data)) == data[::-1]
    server.close()
    client.exchange()
    assert client.tls.read(1) == b"", "the end is told"


def test_the_end_that_a_client_tells(credentials: _native.TlsCredentials, alice: Path) -> None:
    server = credentials.connection()
    client = Client(server, alice, ssl.TLSVersion.TLSv1_3, whole)
    client.shake_hands()
    client.exchange()
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    assert not server.at_end
    client.exchange()
    assert server.at_end


def test_the_names_of_a_certificate(credentials: _native.TlsCredentials, alice: Path) -> None:
    server = credentials.connection()
    client = Client(server, alice, ssl.TLSVersion.TLSv1_3, whole)
    client.shake_hands()
    client.exchange()
    peer = server.peer()
    assert peer is not None
    subject, names = peer
    assert subject.startswith("CN=alice,")
    assert {f"subject:{subject}", "cn:alice", "dns:alice.example"} < set(names)
    assert sum(name.startswith("sha256:") and len(name) == 71 for name in names) == 1


def test_a_handshake_message_without_an_end_is_refused(credentials: _native.TlsCredentials) -> None:
    server = credentials.connection()
    # It is to have 16 MiB, and comes in records that are as large as records may be.
    record = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + bytes((16 << 10) - 4)
    with pytest.raises(Invalid):
        server.receive(record * 1000)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(100)])
def test_garbage_is_refused_with_an_alert(credentials: _native.TlsCredentials, garbage: bytes) -> None:
    server = credentials.connection()
    with pytest.raises(Invalid, match="does not speak TLS"):
        server.receive(garbage)
    assert server.output()[:1] == b"\x15"


def test_credentials_say_what_is_wrong_with_them(authority: Authority) -> None:
    certificate, key = (path.read_bytes() for path in authority.server())
    other = (authority.client("other") / "client-key.pem").read_bytes()
    for wrong, says in [
        ((b"", key), "the certificate: there is no certificate in it"),
        ((certificate, b""), "the key"),
        ((certificate, certificate), "the key"),
        ((certificate, other), "the certificate with its key"),
        ((certificate, key, b"nonsense"), "the client CA: there is no certificate in it"),
        ((certificate, key, b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"), "the client CA"),
    ]:
        with pytest.raises(Invalid, match=says):
            _native.TlsCredentials(*wrong)


def test_a_connection_that_a_session_has_is_nobody_elses(credentials: _native.TlsCredentials, tmp_path: Path) -> None:
    tls = credentials.connection()
    folder = tmp_path / "volume"
    folder.mkdir()
    _native.create(str(folder), bytes(16), 1 << 20, 0)
    volume = _native.Volume.open(str(folder))
    ours, theirs = socket.socketpair()
    server = _native.Server()
    server.attach(ours.detach(), b"", volume, structured=False, extended=False, contexts=[], tls=tls)
    theirs.close()
    with pytest.raises(Closed):
        tls.output()
    server.stop()
    volume.close()

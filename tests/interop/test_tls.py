"""TLS with real clients: who is let in, what a certificate opens, and that bytes arrive as they were sent."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbd
import pytest

from tests.crash.load import Load, lanes
from tests.interop.test_handover import read
from tests.rig.certificates import Authority
from tests.rig.clients import Qemu, nbd_is, nbdcopy, nbdinfo
from tests.rig.content import DISK_BYTES, content, content_file
from tests.rig.daemon import Daemon
from tests.rig.process import run
from tests.unit.nbd_dialogue import (
    ACK,
    EXPORT_NAME,
    GO,
    GREETING,
    LIST,
    STARTTLS,
    STRUCTURED,
    client_flags,
    info,
    option,
    replies,
)

RULES = """
[[grant]]
to = ["cn:alice"]
read = ["read-*"]
write = ["disk", "load"]

[[grant]]
to = ["dns:bob.example"]
read = ["disk"]
"""


LOAD_BYTES = 2 << 20


@dataclass
class Site:
    """A daemon that requires TLS on TCP, its authority, and a certificate folder for each client."""

    daemon: Daemon
    authority: Authority
    folder: Path
    alice: Path
    bob: Path

    def uri(self, export: str, who: Path, *, host: str = "127.0.0.1") -> str:
        return f"nbds://{host}:{self.daemon.port}/{export}?tls-certificates={who}"

    def connect(self, export: str, who: Path) -> nbd.NBD:
        handle = nbd.NBD()
        handle.set_uri_allow_local_file(True)
        handle.connect_uri(self.uri(export, who))
        return handle

    def refused(self, uri: str) -> str:
        """What nbdinfo says of a URI that it must not get to open."""
        done = run("nbdinfo", "--json", uri, exit_code=None)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def said_since(self, before: int) -> str:
        return self.daemon.log[before:]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        (folder / "store").mkdir()
        authority = Authority(folder / "authority")
        certificate, key = authority.server()
        rules = folder / "access.toml"
        rules.write_text(RULES)
        files = ("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority.path, "--tls-access", rules)
        daemon = Daemon(folder / "store", options=("--tls", "require", *map(str, files)))
        with daemon:
            for name in ("disk", "read-me", "secret"):
                daemon.cdp("create", name, "--size", str(DISK_BYTES))
            daemon.cdp("create", "load", "--size", str(LOAD_BYTES))
            daemon.cdp("clone", "disk@latest", "kin")
            yield Site(daemon, authority, folder, authority.client("alice"), authority.client("bob"))
    finally:
        shutil.rmtree(folder)


def test_nbdcopy_there_and_back(site: Site, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, "nbdcopy")
    nbdcopy(source, site.uri("disk", site.alice))
    nbdcopy(site.uri("disk", site.alice), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_qemu_img_there_and_back(site: Site, qemu: Qemu, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, "qemu")
    credentials = f"tls-creds-x509,id=tls,dir={site.alice},endpoint=client,verify-peer=yes"
    image = f"driver=nbd,host=127.0.0.1,port={site.daemon.port},export=disk,tls-creds=tls"
    secure = ("--object", credentials)
    qemu.img(
        *("convert", *secure, "-n", "-f", "raw", "--target-image-opts", str(source), image),
    )
    qemu.img("convert", *secure, "--image-opts", image, "-O", "raw", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [1, 511, 16 << 10, (16 << 10) + 1, (80 << 10) + 7, 1 << 20, 16 << 20, 32 << 20])
def test_requests_of_any_size(site: Site, size: int) -> None:
    handle = site.connect("disk", site.alice)
    data = content(size, f"size {size}")
    offset = DISK_BYTES - size
    handle.pwrite(data, offset)
    assert handle.pread(size, offset) == data
    handle.shutdown()


def test_many_requests_in_flight(site: Site) -> None:
    """Large replies fill the socket while more requests come: records are half sent, again and again."""
    handle = site.connect("disk", site.alice)
    data = content(DISK_BYTES, "flight")
    step = 768 << 10
    pieces = [(at, min(step, DISK_BYTES - at)) for at in range(0, DISK_BYTES, step)]
    for at, length in pieces:
        handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data[at : at + length])), at)
    while handle.aio_in_flight():
        handle.poll(-1)
    buffers = [nbd.Buffer(length) for _, length in pieces]
    for (at, _), buffer in zip(pieces, buffers, strict=True):
        handle.aio_pread(buffer, at)
    while handle.aio_in_flight():
        handle.poll(-1)
    assert b"".join(bytes(buffer.to_bytearray()) for buffer in buffers) == data
    handle.shutdown()


def test_what_was_replied_to_outlives_a_kill_under_load(site: Site) -> None:
    rng = random.Random("tls")
    stretches = lanes(LOAD_BYTES, 4, rng)
    load = Load(site.uri("load", site.alice), stretches, bytes_max=400_000)
    load.run(400, site.daemon.kill)
    site.daemon.start()
    handle = site.connect("load", site.alice)
    now = memoryview(handle.pread(LOAD_BYTES, 0)).toreadonly()
    handle.shutdown()
    for lane in stretches:
        assert lane.applied_in([now])[0][1] >= lane.replied


def test_a_list_shows_what_the_certificate_is_given(site: Site) -> None:
    def seen(who: Path) -> list[str]:
        return sorted(export["export-name"] for export in nbdinfo("--list", site.uri("", who))["exports"])

    assert seen(site.alice) == ["disk", "load", "read-me"]
    assert seen(site.bob) == ["disk"]


def test_the_default_export_is_the_only_one_that_it_sees(site: Site) -> None:
    assert nbdinfo(site.uri("", site.bob))["exports"][0]["export-size"] == DISK_BYTES


@pytest.mark.parametrize("name", ["secret", "secret@latest", "secret@oldest+scratch=mine"])
def test_an_export_that_is_not_given_does_not_exist(site: Site, name: str) -> None:
    nothing = name.replace("secret", "nothing")
    said, of_none = site.refused(site.uri(name, site.alice)), site.refused(site.uri(nothing, site.alice))
    assert said == of_none.replace(nothing, name)
    assert "No such file" in said


def test_an_export_that_is_not_given_has_no_changes_to_tell(site: Site) -> None:
    def tells(uri: str) -> bool:
        handle = nbd.NBD()
        handle.set_uri_allow_local_file(True)
        handle.add_meta_context("x-cdp:changed-since:kin@oldest")
        handle.connect_uri(uri)
        try:
            return bool(handle.can_meta_context("x-cdp:changed-since:kin@oldest"))
        finally:
            handle.shutdown()

    assert tells(site.daemon.uri("disk")), "its owner is told"
    assert not tells(site.uri("disk", site.alice))


def test_an_id_opens_no_more_than_the_name(site: Site) -> None:
    (volume_id,) = [entry["id"] for entry in site.daemon.cdp("list") if entry["name"] == "secret"]
    assert "No such file" in site.refused(site.uri(volume_id, site.alice))


def test_reading_is_not_writing(site: Site) -> None:
    assert nbd_is("read-only", site.uri("disk", site.bob))
    assert not nbd_is("read-only", site.uri("disk", site.alice))
    handle = site.connect("disk", site.bob)
    handle.set_strict_mode(0)
    with pytest.raises(nbd.Error, match=r"Operation not permitted"):
        handle.pwrite(b"x" * 512, 0)
    handle.shutdown()
    assert nbdinfo(site.uri("disk@latest", site.bob))
    said = site.refused(site.uri("disk@latest+scratch=bobs", site.bob))
    assert "No such file" not in said
    assert nbdinfo(site.uri("disk@latest+scratch=alices", site.alice))


def test_a_client_without_tls_is_refused(site: Site) -> None:
    before = len(site.daemon.log)
    site.refused(f"nbd://127.0.0.1:{site.daemon.port}/disk")
    with pytest.raises(nbd.Error):
        nbd.NBD().connect_uri(f"nbd://127.0.0.1:{site.daemon.port}/disk")
    assert "which does not start TLS: it is required here" in site.said_since(before)


def test_the_unix_socket_is_the_owners(site: Site) -> None:
    """Who may connect there is the file system's to say: also without TLS, and to everything."""
    assert len(nbdinfo("--list", f"nbd+unix:///?socket={site.daemon.socket}")["exports"]) == 5
    secure = f"nbds+unix:///?socket={site.daemon.socket}&tls-hostname=localhost&tls-certificates={site.bob}"
    assert len(nbdinfo("--list", secure)["exports"]) == 1


def test_an_expired_certificate_is_refused(site: Site) -> None:
    before = len(site.daemon.log)
    late = site.authority.client("alice", expired=True, called="late")
    site.refused(site.uri("disk", late))
    assert "its certificate has expired" in site.said_since(before)


def test_a_client_without_a_certificate_is_refused(site: Site) -> None:
    before = len(site.daemon.log)
    site.refused(site.uri("disk", site.authority.stranger()))
    assert "it sent no certificate" in site.said_since(before)


def test_a_certificate_that_no_rule_names_opens_nothing(site: Site) -> None:
    before = len(site.daemon.log)
    carol = site.authority.client("carol")
    assert "No such file" not in site.refused(site.uri("disk", carol))
    assert "CN=carol" in site.said_since(before)
    assert "is given no export" in site.said_since(before)


def test_renewed_files_count_from_the_next_client_on(site: Site, tmp_path: Path) -> None:
    staying = site.connect("disk", site.alice)
    other = Authority(tmp_path / "renewed")
    dave = other.client("dave", known_server=site.authority)
    site.refused(site.uri("disk", dave))
    with site.authority.path.open("a") as bundle:
        bundle.write(other.path.read_text())
    rules = site.folder / "access.toml"
    rules.write_text(RULES + '[[grant]]\nto = ["cn:dave"]\nread = ["*"]\n')
    site.authority.server()
    assert len(nbdinfo("--list", site.uri("", dave))["exports"]) == 5
    before = len(site.daemon.log)
    rules.write_text("to = alice")
    assert len(nbdinfo("--list", site.uri("", dave))["exports"]) == 5, "the last good rules count on"
    assert "are not used" in site.said_since(before)
    rules.write_text(RULES)
    assert "No such file" not in site.refused(site.uri("disk", dave))
    staying.pread(4096, 0)
    staying.shutdown()


# --- clients that write the bytes themselves


def tls_context(who: Path, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(who / "ca-cert.pem"))
    context.load_cert_chain(who / "client-cert.pem", who / "client-key.pem")
    context.maximum_version = newest
    return context


def started(site: Site, *, behind: bytes = b"", buffer: int = 0) -> socket.socket:
    """A socket whose STARTTLS was acknowledged; `behind` was sent with it, in the clear. `buffer`: bytes that it receives ahead."""
    client = socket.socket()
    client.settimeout(60)
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", site.daemon.port))
    assert read(client, len(GREETING)) == GREETING
    client.sendall(client_flags() + option(STARTTLS) + behind)
    (reply,) = replies(read(client, 20))
    assert (reply.option, reply.kind) == (STARTTLS, ACK)
    return client


def hung_up(client: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    got = b""
    while True:
        try:
            piece = client.recv(1 << 16)
        except ConnectionResetError:
            return got
        if not piece:
            return got
        got += piece


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_entering_with_either_version_of_tls(site: Site, newest: ssl.TLSVersion) -> None:
    handle = site.connect("disk", site.alice)
    handle.pwrite(b"version!" * 64, 0)
    handle.shutdown()
    with (
        started(site) as plain,
        tls_context(site.alice, newest=newest).wrap_socket(plain, server_hostname="localhost") as client,
    ):
        # The first request comes in the same record as the last option.
        request = b"\x25\x60\x95\x13" + bytes(4) + b"cookie!!" + bytes(8) + (512).to_bytes(4, "big")
        client.sendall(option(EXPORT_NAME, b"disk") + request)
        answer = read(client, 10)
        assert int.from_bytes(answer[:8], "big") == DISK_BYTES
        assert read(client, 16) == b"\x67\x44\x66\x98" + bytes(4) + b"cookie!!"
        assert read(client, 512) == b"version!" * 64
        client.sendall(b"\x25\x60\x95\x13\x00\x00\x00\x02" + bytes(20))
        assert client.recv(1) == b"", "DISC ends with TLS's own goodbye: without it this raises"


def test_a_certificate_of_another_authority_is_refused(site: Site) -> None:
    """libnbd does not even offer one that the server does not ask for; OpenSSL does."""
    before = len(site.daemon.log)
    mallory = Authority(site.folder / "other").client("alice", known_server=site.authority)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        entered(site, mallory)
    assert "no authority that is trusted here issued its certificate" in site.said_since(before)


def test_what_came_in_the_clear_is_not_read_as_said_with_tls(site: Site) -> None:
    before = len(site.daemon.log)
    with started(site, behind=option(LIST)) as client:
        assert b"disk" not in hung_up(client)
    assert "turned" in site.said_since(before)


def test_nothing_agreed_before_tls_counts_after_it(site: Site) -> None:
    client = socket.create_connection(("127.0.0.1", site.daemon.port), timeout=60)
    read(client, len(GREETING))
    client.sendall(client_flags() + option(STRUCTURED) + option(STARTTLS))
    refusal = read(client, 20)
    read(client, int.from_bytes(refusal[16:20], "big"))
    read(client, 20)
    with client, tls_context(site.alice).wrap_socket(client, server_hostname="localhost") as secure:
        secure.sendall(option(STARTTLS) + option(GO, info("disk")))
        again = read(secure, 20)
        assert again[12:16] == b"\x80\x00\x00\x03", "a second STARTTLS is ERR_INVALID"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        bytes(5),
        b"\x16\x03\x01\xff\xff" + bytes(1 << 16),
        b"\x17\x03\x03\x40\x00" + bytes(1 << 14),
    ],
    ids=["http", "zeros", "huge record", "data first"],
)
def test_garbage_after_starttls_ends_one_connection(site: Site, garbage: bytes) -> None:
    with started(site) as client:
        client.sendall(garbage)
        hung_up(client)
    assert nbdinfo(site.uri("disk", site.bob))


def test_half_handshakes_lock_nobody_out(site: Site) -> None:
    hello = ssl.MemoryBIO()
    half = tls_context(site.alice).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    first = hello.read()
    # More than there may be handshakes at once.
    idle = [started(site) for _ in range(150)]
    try:
        for client in idle:
            client.sendall(first[: len(first) // 2])
        assert nbdinfo(site.uri("disk", site.bob))
    finally:
        for client in idle:
            client.close()


def entered(site: Site, who: Path, *, buffer: int = 0) -> ssl.SSLSocket:
    """In the transmission phase of `disk`."""
    secure = tls_context(who).wrap_socket(started(site, buffer=buffer), server_hostname="localhost")
    secure.sendall(option(EXPORT_NAME, b"disk"))
    read(secure, 10)
    return secure


def test_a_slow_reader_gets_every_byte(site: Site) -> None:
    """Replies of all sizes leave in many records, and the socket is full in the middle of any of them."""
    handle = site.connect("disk", site.alice)
    data = content(DISK_BYTES, "slow")
    handle.pwrite(data, 0)
    handle.shutdown()
    rng = random.Random("slow")
    asked = {
        cookie: (rng.randrange(DISK_BYTES - 300_000), rng.choice([1, 16, 500, 4096, 5000, 40_000, 131_072, 300_000]))
        for cookie in range(300)
    }
    with entered(site, site.alice, buffer=8192) as secure:
        for cookie, (offset, length) in asked.items():
            secure.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, offset, length))
        for _ in asked:
            magic, error, cookie = struct.unpack(">IIQ", read(secure, 16))
            assert (magic, error) == (0x67446698, 0)
            offset, length = asked[cookie]
            assert read(secure, length) == data[offset : offset + length]


def test_garbage_between_records_ends_one_session(site: Site) -> None:
    before = len(site.daemon.log)
    with entered(site, site.alice) as secure, socket.socket(fileno=secure.detach()) as raw:
        raw.settimeout(60)
        raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        hung_up(raw)
    assert nbdinfo(site.uri("disk", site.bob))
    assert "Traceback" not in site.said_since(before)


def test_a_reader_that_stops_reading_holds_little(site: Site) -> None:
    def resident() -> int:
        lines = Path(f"/proc/{site.daemon.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) << 10

    nbdcopy(site.uri("disk", site.alice), "null:")
    before = resident()
    stalled = []
    for _ in range(8):
        secure = entered(site, site.alice)
        secure.setblocking(False)
        request = b"\x25\x60\x95\x13" + bytes(20) + (1 << 20).to_bytes(4, "big")
        try:
            for _ in range(10_000):
                secure.send(request * 100)
        except (ssl.SSLWantWriteError, BlockingIOError):
            pass
        stalled.append(secure)
    assert nbdinfo(site.uri("disk", site.bob))
    assert resident() - before < 128 << 20
    for secure in stalled:
        secure.close()

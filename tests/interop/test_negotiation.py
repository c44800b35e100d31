"""libnbd, nbdinfo and qemu-nbd negotiate with the server; libnbd's option mode says one option at a time.

No volume is behind it: a client that enters finds a session that says nothing, so these tests hold the handshake to account and nothing else.
Options that only libnbd >= 1.18 sends are marked `newer_libnbd`: `make test-libnbd` runs this file once more, with such a one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbd
import pytest
import trio

from cdp import errors
from tests.rig.process import run
from tests.unit.test_nbd_server import Disk, Disks, site

ALLOCATION = "base:allocation"
GIB = 1 << 30

# libnbd before 1.18 says fewer options: these run by `make test-libnbd`.
needs_newer_libnbd = pytest.mark.newer_libnbd


class Store(Disks):
    """Two volumes, and a past state of one that is read-only and has another name than it was asked by."""

    async def names(self) -> list[tuple[str, str]]:
        await trio.lowlevel.checkpoint()
        return [("disk", "the live volume"), ("ü", "")]

    async def open(self, name: str) -> Disk:
        await trio.lowlevel.checkpoint()
        if name == "disk":
            return Disk(name, size=GIB, description="the live volume")
        if name == "disk@-5m":
            return Disk("disk@lsn:7", size=GIB // 2, read_only=True, multi_conn=False)
        if name == "ü":
            return Disk(name)
        raise errors.NotFound(f"there is no export {name}")


@dataclass(frozen=True)
class Place:
    """Where the server listens."""

    path: str
    port: int

    def uri(self, name: str = "") -> str:
        return f"nbd+unix:///{name}?socket={self.path}"


@pytest.fixture
def place(store: Path) -> Iterator[Place]:
    """The server in a thread of its own, since clients block theirs."""
    here: list[Place] = []
    ready, over = threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with site(store, exports=Store()) as served:
            here.append(Place(served.path, served.tcp[1]))
            ready.set()
            await over.wait()
            for session in range(len(served.sessions.attached)):
                await trio.to_thread.run_sync(served.sessions.end, session)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(60)
    yield here[0]
    token[0].run_sync_soon(over.set)
    thread.join()


@pytest.fixture
def client() -> Iterator[Any]:
    """libnbd in option mode, not yet connected."""
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.set_full_info(True)
    yield handle
    if handle.aio_is_negotiating():
        handle.opt_abort()


def flags(client: Any) -> set[str]:
    names = ("flush", "fua", "trim", "zero", "fast_zero", "cache", "df", "multi_conn")
    return {name for name in names if getattr(client, f"can_{name}")()}


def test_nbdinfo_lists_every_export(place: Place) -> None:
    said = run("nbdinfo", "--list", place.uri()).stdout
    assert 'export="disk":' in said
    assert "description: the live volume" in said
    assert "block_size_maximum: 33554432" in said


def test_qemu_nbd_lists_every_export(place: Place) -> None:
    said = run("qemu-nbd", "--list", "--socket", place.path).stdout
    assert "exports available: 2" in said
    assert "flags: 0xded ( flush fua trim zeroes df multi cache fast-zero )" in said


def test_list(place: Place, client: Any) -> None:
    found: list[tuple[str, str]] = []
    client.connect_unix(place.path)
    assert client.opt_list(lambda name, description: found.append((name, description))) == 2
    assert found == [("disk", "the live volume"), ("ü", "")]


@pytest.mark.parametrize("tcp", [False, True])
def test_info_tells_all_about_an_export(place: Place, client: Any, tcp: bool) -> None:
    client.set_export_name("disk")
    if tcp:
        client.connect_tcp("127.0.0.1", str(place.port))
    else:
        client.connect_unix(place.path)
    client.opt_info()
    assert client.get_protocol() == "newstyle-fixed"
    assert client.get_size() == GIB
    assert client.get_canonical_export_name() == "disk"
    assert client.get_export_description() == "the live volume"
    sizes = [client.get_block_size(which) for which in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
    assert sizes == [1, 4096, 32 << 20]
    assert not client.is_read_only()
    assert flags(client) == {"flush", "fua", "trim", "zero", "fast_zero", "cache", "df", "multi_conn"}


def test_a_past_state_is_read_only_and_tells_its_own_name(place: Place, client: Any) -> None:
    client.set_export_name("disk@-5m")
    client.connect_unix(place.path)
    client.opt_info()
    assert client.get_canonical_export_name() == "disk@lsn:7"
    assert client.is_read_only()
    assert flags(client) == {"flush", "cache", "df"}
    with pytest.raises(nbd.Error):
        client.get_export_description()


def test_without_structured_replies_there_is_no_df_and_no_context(place: Place, client: Any) -> None:
    client.set_request_structured_replies(False)
    client.add_meta_context(ALLOCATION)
    client.set_export_name("disk")
    client.connect_unix(place.path)
    client.opt_info()
    assert "df" not in flags(client)
    assert not client.can_meta_context(ALLOCATION)


def test_a_refused_name_leaves_the_connection_usable(place: Place, client: Any) -> None:
    client.set_export_name("gone")
    client.connect_unix(place.path)
    for ask in (client.opt_info, client.opt_go):
        with pytest.raises(nbd.Error) as refused:
            ask()
        assert refused.value.errno == "ENOENT"
    client.set_export_name("disk")
    client.opt_go()
    assert client.get_size() == GIB


def test_a_long_name_is_refused_and_a_name_in_any_script_is_not(place: Place, client: Any) -> None:
    client.connect_unix(place.path)
    for name in ("é" * 2048, "名前", "a b\tc"):
        client.set_export_name(name)
        with pytest.raises(nbd.Error) as refused:
            client.opt_info()
        assert refused.value.errno == "ENOENT"
    client.opt_abort()


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        ([], [ALLOCATION, "x-cdp:changed-since:"]),
        (["base:"], [ALLOCATION]),
        ([ALLOCATION], [ALLOCATION]),
        (["x-nosuch:", "base:nosuch"], []),
    ],
)
def test_contexts_are_listed(place: Place, client: Any, queries: list[str], found: list[str]) -> None:
    client.set_export_name("disk")
    client.connect_unix(place.path)
    for query in queries:
        client.add_meta_context(query)
    told: list[str] = []
    assert client.opt_list_meta_context(told.append) == len(found)
    assert told == found


@pytest.mark.parametrize("names", [[ALLOCATION], ["x-nosuch:y", ALLOCATION], ["base:"]])
def test_contexts_are_selected_by_entering(place: Place, client: Any, names: list[str]) -> None:
    for name in names:
        client.add_meta_context(name)
    client.set_export_name("disk")
    client.connect_unix(place.path)
    client.opt_go()
    assert client.can_meta_context(ALLOCATION) == (ALLOCATION in names)


@pytest.mark.parametrize(
    ("bits", "protocol"), [(0, "newstyle"), (2, "newstyle"), (1, "newstyle-fixed"), (3, "newstyle-fixed")]
)
def test_every_set_of_handshake_flags_enters(place: Place, bits: int, protocol: str) -> None:
    old = nbd.NBD()
    old.set_handshake_flags(bits)
    old.set_export_name("disk")
    old.connect_unix(place.path)
    assert old.get_protocol() == protocol
    assert old.get_size() == GIB
    assert not old.is_read_only()


@pytest.mark.parametrize("bits", [0, 2])
def test_an_old_client_is_hung_up_on_where_it_cannot_enter(place: Place, bits: int) -> None:
    old = nbd.NBD()
    old.set_handshake_flags(bits)
    old.set_export_name("gone")
    with pytest.raises(nbd.Error):
        old.connect_unix(place.path)


@needs_newer_libnbd
def test_extended_headers_outrank_structured_replies(place: Place, client: Any) -> None:
    client.set_request_structured_replies(False)
    client.set_request_extended_headers(False)
    client.set_export_name("disk")
    client.connect_unix(place.path)
    assert client.opt_structured_reply()
    assert client.opt_structured_reply(), "asking twice does no harm"
    assert client.opt_extended_headers()
    assert client.get_extended_headers_negotiated()
    client.opt_go()
    assert not client.can_block_status_payload(), "no context was selected"


@needs_newer_libnbd
def test_block_status_payloads_come_with_extended_headers_and_contexts(place: Place, client: Any) -> None:
    client.add_meta_context(ALLOCATION)
    client.set_export_name("disk")
    client.connect_unix(place.path)
    assert client.get_extended_headers_negotiated()
    client.opt_go()
    assert client.can_meta_context(ALLOCATION)
    assert client.can_block_status_payload()


@needs_newer_libnbd
def test_a_selection_holds_for_its_export_alone(place: Place, client: Any) -> None:
    client.set_request_meta_context(False)
    client.set_export_name("disk@-5m")
    client.connect_unix(place.path)
    assert client.opt_set_meta_context_queries([ALLOCATION], lambda name: None) == 1
    client.set_export_name("disk")
    client.opt_go()
    assert not client.can_block_status_payload()


@needs_newer_libnbd
def test_selecting_again_replaces_the_selection(place: Place, client: Any) -> None:
    client.set_request_meta_context(False)
    client.set_export_name("disk")
    client.connect_unix(place.path)
    assert client.opt_set_meta_context_queries([ALLOCATION], lambda name: None) == 1
    assert client.opt_set_meta_context_queries(["base:"], lambda name: None) == 0
    client.opt_info()
    assert not client.can_meta_context(ALLOCATION)


@needs_newer_libnbd
def test_starttls_is_declined_and_haggling_goes_on(place: Place, client: Any) -> None:
    client.set_export_name("disk")
    client.connect_unix(place.path)
    try:
        assert not client.opt_starttls()
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", "built without TLS"  # noqa: PT017
    client.opt_info()
    assert client.get_size() == GIB

"""A client's side of the handshake for tests: builds options, reads replies, and plays the control plane's part.

Written from the specification with its numbers spelt out, so that a wrong constant in the server is not repeated here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cdp import errors
from cdp.nbd.handshake import Handshake
from cdp.nbd.offer import Facts
from cdp.nbd.states import Event, ListExports, NeedBytes, OpenExport

GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
FIXED, NO_ZEROES = 1, 2
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
ACK, SERVER, INFORMATION, META = 1, 2, 3, 4
ERR = 1 << 31
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, SHUTDOWN, TOO_BIG, EXT_REQD = (ERR + n for n in (1, 2, 3, 5, 6, 7, 9, 10))

DISK = Facts("disk", 1 << 30, read_only=False, multi_conn=True, description="a disk")
PAST = Facts("disk@2026-01-01T00:00:00Z", 1 << 20, read_only=True, multi_conn=False)
WORLD: dict[str, Facts | errors.CdpError] = {
    "disk": DISK,
    "disk@-5m": PAST,
    "gone": errors.NotFound("there is no volume gone"),
    "busy": errors.Busy("busy is being restored"),
    "": errors.NotFound("there are two volumes: name one"),
}


@dataclass(frozen=True)
class Reply:
    option: int
    kind: int
    data: bytes


def client_flags(flags: int = FIXED | NO_ZEROES) -> bytes:
    return struct.pack(">I", flags)


def option(number: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    """One option; `length` lies about its data."""
    return b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw


def info(name: str | bytes, *kinds: int) -> bytes:
    """The data of INFO and GO."""
    return string(name) + struct.pack(f">H{len(kinds)}H", len(kinds), *kinds)


def contexts(name: str | bytes, *queries: str | bytes) -> bytes:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return string(name) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))


def replies(output: bytes) -> list[Reply]:
    """All replies in some output, which must hold nothing else."""
    found = []
    while output:
        magic, number, kind, length = struct.unpack_from(">QIII", output)
        assert magic == 0x0003E889045565A9
        assert len(output) >= 20 + length, "a reply is cut short"
        found.append(Reply(number, kind, output[20 : 20 + length]))
        output = output[20 + length :]
    return found


def answer(machine: Handshake, event: Event, world: Mapping[str, Facts | errors.CdpError]) -> bool:
    """Answers an event as the control plane would; False if it is not one to answer."""
    match event:
        case ListExports():
            machine.exports_are([(name, "") for name, found in world.items() if isinstance(found, Facts)])
        case OpenExport(name):
            found = world.get(name, errors.NotFound(f"there is no volume {name[:80]}"))
            if isinstance(found, Facts):
                since = tuple(when for when in event.since if when in found.since)
                machine.export_is(replace(found, since=since, instants=found.instants * event.instants))
            else:
                machine.refused(found)
        case _:
            return False
    return True


def settle(machine: Handshake, world: Mapping[str, Facts | errors.CdpError]) -> Event:
    """Acts on events until the client's bytes are used up, or the handshake is over."""
    while answer(machine, event := machine.next_event(), world):
        pass
    return event


def converse(
    machine: Handshake, pieces: Iterable[bytes], world: Mapping[str, Facts | errors.CdpError] = WORLD
) -> tuple[bytes, Event]:
    """Feeds bytes piece by piece; all output, and where it led. A driver stops receiving once the handshake is over, so do we."""
    out, event = machine.output(), settle(machine, world)
    for piece in pieces:
        machine.receive(piece)
        event = settle(machine, world)
        out += machine.output()
        if not isinstance(event, NeedBytes):
            break
    return out, event

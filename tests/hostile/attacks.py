"""What hostile clients do. An attack is many hands: each connects, does its harm, stays as long as it is let, and begins again.

What a hand does to the daemon is what counts; its own work is kept small, and but for `flood` so many connections begin in a second and no more.
"""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.hostile.way import Way
from tests.unit.nbd_dialogue import GO, INFO, LIST, LIST_META, SET_META, client_flags, contexts, info, option

KIB, MIB = 1 << 10, 1 << 20
READ, WRITE = 0, 1
REQUEST_MAGIC = 0x25609513
DRIBBLE_SECONDS = 1.0

Hand = Callable[[Way, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """`hands` at once; `per_second`: new connections of all hands together, None: as many as there can be. `tls`: only where TLS is spoken."""

    about: str
    hand: Hand
    hands: int
    per_second: float | None = 500.0
    tls: bool = False


def request(command: int, cookie: int, offset: int, length: int) -> bytes:
    return struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, cookie, offset, length)


@asynccontextmanager
async def closed(stream: trio.abc.AsyncResource) -> AsyncIterator[None]:
    """Hangs up at the end, without a word."""
    try:
        yield
    finally:
        await trio.aclose_forcefully(stream)


async def until_cut(stream: trio.abc.Stream) -> None:
    while await stream.receive_some(4 * KIB):
        pass


async def half_open(way: Way, rng: random.Random) -> None:
    """Stops somewhere on the way: before the first byte, in the flags, in an option's header, in its data."""
    whole = client_flags() + option(GO, info(way.export))
    stream = await way.connect()
    async with closed(stream):
        await stream.send_all(whole[: rng.choice([0, 0, 2, 4, 10, 20, 22, len(whole) - 1])])
        await until_cut(stream)


async def dribble(way: Way, rng: random.Random) -> None:
    """A byte a second, of an option without end."""
    stream = await way.greet()
    async with closed(stream):
        await stream.send_all(option(INFO, length=60 * KIB))
        while True:
            await stream.send_all(rng.randbytes(1))
            await trio.sleep(DRIBBLE_SECONDS)


async def garbage(way: Way, rng: random.Random) -> None:
    """Anything: instead of flags, options, TLS or requests."""
    stage = rng.randrange(4 if way.credentials is None else 5)
    stream: trio.abc.Stream
    if stage == 0:
        stream = await way.connect()
    elif stage == 1:
        stream = await way.greet()
    elif stage == 2:
        stream = await way.greet()
        await stream.send_all(option(rng.choice([GO, INFO, SET_META]), rng.randbytes(30 * KIB)))
    elif stage == 3:
        stream = await way.enter()
    else:
        stream = await way.start_tls()
    async with closed(stream):
        await stream.send_all(rng.randbytes(64 * KIB))
        await until_cut(stream)


async def giant(way: Way, rng: random.Random) -> None:
    """Options as large and as many as there can be, and no ear for the answers."""
    stream = await way.greet()
    async with closed(stream):
        if rng.randrange(2):
            await stream.send_all(option(rng.choice([GO, 99]), length=rng.choice([4 * MIB - 1000, (1 << 32) - 1])))
            while True:
                await stream.send_all(bytes(64 * KIB))
        while True:
            await stream.send_all(option(LIST) + option(INFO, info("x" * 4096)) + option(SET_META, bytes(60 * KIB)))


async def curious(way: Way, rng: random.Random) -> None:
    """Asks what there is: names, instants, changes since any of them."""
    stream = await way.greet()
    async with closed(stream), trio.open_nursery() as nursery:
        nursery.start_soon(until_cut, stream)
        for _ in range(250):
            when = rng.randrange(1, 10_000)
            queries = [f"x-cdp:changed-since:-{when + each}ms" for each in range(60)]
            await stream.send_all(option(LIST) + option(INFO, info(f"{way.export}@-{when}ms")))
            await stream.send_all(option(LIST_META, contexts(way.export, *queries)) + option(INFO, info(f"no{when}")))


async def deaf(way: Way, rng: random.Random) -> None:
    """Asks for as much as the daemon takes, and reads nothing."""
    stream = await way.enter()
    async with closed(stream):
        length = rng.choice([4 * KIB, 64 * KIB, 128 * KIB, MIB, 32 * MIB])
        asked = b"".join(request(READ, cookie, 0, length) for cookie in range(1000))
        while True:
            await stream.send_all(asked)


async def half_sent(way: Way, rng: random.Random) -> None:
    """Begins a write, and stops."""
    stream = await way.enter()
    async with closed(stream):
        length = rng.choice([32 * KIB, 128 * KIB, MIB, 4 * MIB, 32 * MIB])
        await stream.send_all(request(WRITE, 1, 0, length) + bytes(length // 2))
        await until_cut(stream)


async def crowd(way: Way, rng: random.Random) -> None:
    """Enters, and asks for nothing."""
    stream = await way.enter()
    async with closed(stream):
        await until_cut(stream)


async def flood(way: Way, rng: random.Random) -> None:
    """Connects and hangs up, as fast as it goes."""
    await trio.aclose_forcefully(await way.connect())


async def half_tls(way: Way, rng: random.Random) -> None:
    """Stops in the TLS handshake: before it, in its first message, after the daemon's answer to it."""
    stream = await way.start_tls()
    async with closed(stream):
        hello = way.client_hello()
        await stream.send_all(hello[: rng.choice([0, 5, len(hello) - 1, len(hello), len(hello)])])
        await until_cut(stream)


ATTACKS: dict[str, Attack] = {
    "half-open": Attack("3000 handshakes that stop half-way", half_open, 3000),
    "dribble": Attack("500 handshakes at a byte a second", dribble, 500),
    "garbage": Attack("garbage at every stage", garbage, 64),
    "giant": Attack("giant options, answers not read", giant, 64, 200.0),
    "curious": Attack("instants and names asked for without end", curious, 64, 200.0),
    "deaf": Attack("300 sessions that ask and do not read", deaf, 300),
    "half-sent": Attack("300 sessions that stop in a write", half_sent, 300),
    "crowd": Attack("2000 sessions that do nothing", crowd, 2000),
    "flood": Attack("connections as fast as they come", flood, 16, None),
    "half-tls": Attack("2000 TLS handshakes that stop half-way", half_tls, 2000, 200.0, tls=True),
}

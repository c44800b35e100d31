"""A load whose every byte tells which request wrote it, so that what a crash left can be judged request by request.

Invariants:
- A lane is one connection and the stretch of the volume that it alone writes. Stretches begin inside sectors: neighbouring lanes share one.
- The contents of a request follow from (lane, number) alone, and its number is in them: a state of the lane is the number of its requests
  that were applied, in the order in which they were sent.
- A reply counts when it was sent, not when it was read: what the dead server left in the socket is read too.
"""

from __future__ import annotations

import itertools
import random
import select
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import nbd

IN_FLIGHT = 12
"""Requests that a lane keeps under way: several are unanswered whenever the server dies."""


Kind = Literal["write", "zero", "trim"]
_KINDS: tuple[Kind, ...] = ("write", "zero", "trim")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `start` and `length` in bytes, inside the lane."""

    lane: int
    number: int
    kind: Kind
    start: int
    length: int
    fua: bool

    @property
    def end(self) -> int:
        return self.start + self.length

    def content(self) -> bytes:
        """What the request leaves in its range: by turns text that shrinks and noise that does not."""
        if self.kind != "write":
            return bytes(self.length)
        if self.number % 2:
            mark = b"%02d/%08d " % (self.lane, self.number)
            return (mark * (self.length // len(mark) + 1))[: self.length]
        return random.Random(self.lane << 32 | self.number).randbytes(self.length)


@dataclass
class Lane:
    """A connection's stretch of the volume: `base` is its state at the start of the round, `requests` what was sent since."""

    index: int
    offset: int
    length: int
    rng: random.Random
    base: bytearray = field(init=False)
    requests: list[Request] = field(default_factory=list)
    replied: int = 0
    """Requests 0..replied must be there: the last one that was replied to, and all before it."""
    in_flight: int = 0
    _number: int = 0

    def __post_init__(self) -> None:
        self.base = bytearray(self.length)

    def next_request(self, bytes_max: int) -> Request:
        rng = self.rng
        length = min(self.length, rng.choice([rng.randint(1, 700), rng.randint(1, 6000), rng.randint(1, bytes_max)]))
        start = rng.randrange(self.length - length + 1)
        if rng.random() < 0.2:
            start = max(0, start - (self.offset + start) % 4096)
        kind = rng.choices(_KINDS, (18, 1, 1))[0]
        request = Request(self.index, self._number, kind, start, length, rng.random() < 0.02)
        self._number += 1
        self.requests.append(request)
        return request

    def states(self) -> Iterator[tuple[int, bytearray]]:
        """(applied requests, the lane as it then is), from none to all. The array is the same one each time."""
        state = bytearray(self.base)
        yield 0, state
        for applied, request in enumerate(self.requests, 1):
            state[request.start : request.end] = request.content()
            yield applied, state

    def applied_in(self, seen: Sequence[memoryview]) -> list[tuple[int, int]]:
        """For each view of the whole volume, the least and the most applied requests that explain this lane: a request may change nothing."""
        stretches = [view[self.offset : self.offset + self.length] for view in seen]
        found: list[list[int]] = [[] for _ in seen]
        for applied, state in self.states():
            last = self.requests[applied - 1] if applied else None
            for stretch, counts in zip(stretches, found, strict=True):
                # Most states differ where the last request went: the whole lane is compared only where that fits.
                if (
                    last is None or state[last.start : last.end] == stretch[last.start : last.end]
                ) and state == stretch:
                    counts.append(applied)
        assert all(found), f"lane {self.index}: a state that no number of whole requests explains"
        return [(counts[0], counts[-1]) for counts in found]

    def begin_round(self, applied: int) -> None:
        """Forgets what the crash took, and goes on from the state after `applied` requests."""
        self.base = next(bytearray(state) for count, state in self.states() if count == applied)
        self.requests, self.replied, self.in_flight = [], 0, 0


def lanes(volume_bytes: int, count: int, rng: random.Random) -> list[Lane]:
    """Lanes side by side over the whole volume, with borders that no sector has."""
    borders = [0, *(volume_bytes * i // count // 512 * 512 + 100 + i for i in range(1, count)), volume_bytes]
    return [Lane(i, a, b - a, random.Random(rng.random())) for i, (a, b) in enumerate(itertools.pairwise(borders))]


class Load:
    """Keeps every lane's connection full until `replies_max` replies came, then calls `kill` and reads what the server still sent."""

    def __init__(self, uri: str, lanes: Sequence[Lane], *, bytes_max: int) -> None:
        self._lanes = list(lanes)
        self._bytes_max = bytes_max
        self._replies = 0
        self._errors: list[str] = []
        self._killed = False
        self._handles: list[Any] = []
        for _ in lanes:
            handle = nbd.NBD()
            # A URI may name the folder of a client's certificate.
            handle.set_uri_allow_local_file(True)
            handle.connect_uri(uri)
            self._handles.append(handle)

    def first(self) -> None:
        """One request alone, to its reply."""
        self._send(self._lanes[0], self._handles[0], may_flush=False)
        while self._lanes[0].in_flight:
            self._turn()

    def run(self, replies_max: int, kill: Callable[[], None]) -> None:
        """AssertionError if a request fails before the kill."""
        while self._replies < replies_max:
            for lane, handle in zip(self._lanes, self._handles, strict=True):
                while lane.in_flight < IN_FLIGHT:
                    self._send(lane, handle)
            self._turn()
        self._killed = True
        kill()
        while any(not _ended(handle) for handle in self._handles):
            self._turn()
        assert not self._errors, self._errors[0]

    def _send(self, lane: Lane, handle: Any, *, may_flush: bool = True) -> None:
        lane.in_flight += 1
        if may_flush and lane.rng.random() < 0.01:
            handle.aio_flush(completion=self._completion(lane, None))
            return
        request = lane.next_request(self._bytes_max)
        flags = nbd.CMD_FLAG_FUA if request.fua else 0
        done = self._completion(lane, len(lane.requests))
        at = lane.offset + request.start
        if request.kind == "write":
            handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(request.content())), at, completion=done, flags=flags)
        elif request.kind == "zero":
            handle.aio_zero(request.length, at, completion=done, flags=flags)
        else:
            handle.aio_trim(request.length, at, completion=done, flags=flags)

    def _completion(self, lane: Lane, count: int | None) -> Callable[[int], int]:
        def completed(error: int) -> int:
            lane.in_flight -= 1
            if error and not self._killed:
                self._errors.append(f"lane {lane.index}: request {count} failed with errno {error}")
            if not error:
                self._replies += 1
                lane.replied = max(lane.replied, count or 0)
            return 1

        return completed

    def _turn(self) -> None:
        """Moves bytes on every connection that is ready, and waits for one."""
        poll = select.poll()
        by_fd = {}
        for handle in self._handles:
            if _ended(handle):
                continue
            direction = handle.aio_get_direction()
            reads = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
            writes = select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE and not self._killed else 0
            poll.register(handle.aio_get_fd(), reads | writes)
            by_fd[handle.aio_get_fd()] = handle
        for fd, events in poll.poll():
            self._notify(by_fd[fd], events)
        assert self._killed or not self._errors, self._errors[0]

    def _notify(self, handle: Any, events: int) -> None:
        try:
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                handle.aio_notify_read()
            elif events & select.POLLOUT:
                handle.aio_notify_write()
        except nbd.Error:
            if not self._killed:
                raise


def _ended(handle: Any) -> bool:
    return bool(handle.aio_is_dead() or handle.aio_is_closed())

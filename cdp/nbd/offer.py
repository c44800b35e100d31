"""What the server offers of an export: transmission flags, information replies, metadata contexts.

Invariants:
- Pure functions of the export's facts and of what the client negotiated. An INFO and a GO with the same parameters and nothing
  in between get the same answer, because both are answered by the same call.
- A flag stands for something that the native session does: read-only exports do not offer what only writers use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cdp.nbd import wire
from cdp.nbd.wire import Info, TransmissionFlag

BLOCK_BYTES_MINIMUM = 1
BLOCK_BYTES_PREFERRED = 4096
PAYLOAD_BYTES_MAXIMUM = 32 << 20
"""The specification's defaults ("Size constraints"), so a client that never asks for them need not know them."""

BASE_ALLOCATION = "base:allocation"
BASE_WILDCARD = "base:"
CHANGED_SINCE = "x-cdp:changed-since:"
"""Followed by a WHEN (cdp/changes.py, `parse_point`). Without one it is a wildcard."""
CDP_WILDCARD = "x-cdp:"
CHANGED_SINCE_MAX = 16
"""Of one option. Each holds an instant, and its extents of a reply take 32 KiB."""


@dataclass(frozen=True)
class Facts:
    """What the handshake tells about an opened export; the fields are those of `cdp.nbd.exports.Export`."""

    name: str
    size: int
    read_only: bool
    multi_conn: bool
    description: str | None = None
    since: tuple[str, ...] = ()
    """Of the instants that the client named, as it spelt them, those that can be reached."""
    instants: tuple[str, ...] = ()
    """Some that it may name, if it asked for them."""


@dataclass
class Negotiated:
    """What options have switched on so far. A fresh one is the state after the client flags, and after STARTTLS, should it ever succeed."""

    structured: bool = False
    extended: bool = False
    contexts_of: str | None = None
    """The export name of the last successful SET_META_CONTEXT, as the client spelt it."""
    contexts: list[tuple[int, str]] = field(default_factory=list)
    """(number, name) that it selected."""

    @property
    def chunked(self) -> bool:
        """Whether replies come in chunks, which metadata contexts and DF need."""
        return self.structured or self.extended

    def contexts_for(self, name: str) -> list[tuple[int, str]]:
        """The contexts that hold for an export: none if they were selected for another name."""
        return self.contexts if self.contexts_of == name else []


def transmission_flags(facts: Facts, negotiated: Negotiated, name: str) -> TransmissionFlag:
    """The flags of an export that the client calls `name`."""
    flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_CACHE
    if facts.read_only:
        flags |= TransmissionFlag.READ_ONLY
    else:
        flags |= TransmissionFlag.SEND_FUA | TransmissionFlag.SEND_TRIM
        flags |= TransmissionFlag.SEND_WRITE_ZEROES | TransmissionFlag.SEND_FAST_ZERO
    if facts.multi_conn:
        flags |= TransmissionFlag.CAN_MULTI_CONN
    if negotiated.chunked:
        flags |= TransmissionFlag.SEND_DF
    if negotiated.extended and negotiated.contexts_for(name):
        flags |= TransmissionFlag.BLOCK_STATUS_PAYLOAD
    return flags


def information(option: int, facts: Facts, flags: TransmissionFlag, wanted: Iterable[int]) -> bytes:
    """The NBD_REP_INFO replies to INFO or GO, before the ACK.

    The block sizes are sent whether or not they were asked for: a client must ignore what it does not know, and some look at
    them without asking. Name and description are sent on request.
    """
    out = wire.reply_info_export(option, facts.size, flags)
    if Info.NAME in wanted:
        out += wire.reply_info_text(option, Info.NAME, facts.name)
    if Info.DESCRIPTION in wanted and facts.description is not None:
        out += wire.reply_info_text(option, Info.DESCRIPTION, facts.description)
    return out + wire.reply_info_block_size(option, BLOCK_BYTES_MINIMUM, BLOCK_BYTES_PREFERRED, PAYLOAD_BYTES_MAXIMUM)


def instants_named(queries: tuple[str, ...]) -> tuple[str, ...]:
    """The WHENs in the queries, each once, as they are spelt. Malformed for a query that can be none, TooBig for too many instants."""
    for query in queries:
        namespace, colon, _ = query.partition(":")
        if not namespace or not colon:
            raise wire.Malformed(f"the query {query[:80]!r} does not start with a namespace and a colon")
    named = (query.removeprefix(CHANGED_SINCE) for query in queries if query.startswith(CHANGED_SINCE))
    instants = tuple(dict.fromkeys(when for when in named if when))
    if len(instants) > CHANGED_SINCE_MAX:
        raise wire.TooBig(f"{len(instants)} instants in one option: at most {CHANGED_SINCE_MAX}")
    return instants


def contexts_listed(queries: tuple[str, ...], facts: Facts) -> list[str]:
    """The names that LIST_META_CONTEXT answers: without a query `base:allocation` and the wildcard for instants, which the specification
    allows where they are too many to list; else those that a query names or its wildcard covers."""
    names = [BASE_ALLOCATION] if not queries or BASE_WILDCARD in queries else []
    names += [CHANGED_SINCE] if not queries or CDP_WILDCARD in queries else []
    names += [CHANGED_SINCE + when for when in facts.instants]
    return list(dict.fromkeys(names + contexts_selected(queries, facts)))


def contexts_selected(queries: tuple[str, ...], facts: Facts) -> list[str]:
    """The names that SET_META_CONTEXT selects, each once. Wildcards select nothing; unknown names, and instants that cannot be reached, are passed over."""
    allocation = [BASE_ALLOCATION] if BASE_ALLOCATION in queries else []
    return allocation + [CHANGED_SINCE + when for when in facts.since]

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


@dataclass(frozen=True)
class Facts:
    """What the handshake tells about an opened export; the fields are those of `cdp.nbd.exports.Export`."""

    name: str
    size: int
    read_only: bool
    multi_conn: bool
    description: str | None = None


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


def contexts_listed(queries: tuple[str, ...]) -> list[str]:
    """The names that LIST_META_CONTEXT answers: all without a query, else those that a query names or its wildcard covers."""
    _check_queries(queries)
    if not queries or BASE_WILDCARD in queries:
        return [BASE_ALLOCATION]
    return contexts_selected(queries)


def contexts_selected(queries: tuple[str, ...]) -> list[str]:
    """The names that SET_META_CONTEXT selects, each once. Wildcards select nothing; unknown names are passed over."""
    _check_queries(queries)
    return [BASE_ALLOCATION] if BASE_ALLOCATION in queries else []


def _check_queries(queries: tuple[str, ...]) -> None:
    for query in queries:
        namespace, colon, _ = query.partition(":")
        if not namespace or not colon:
            raise wire.Malformed(f"the query {query[:80]!r} does not start with a namespace and a colon")

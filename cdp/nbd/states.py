"""The life of a handshake: its limits, its events, its states, and the one table of the steps between them.

Invariants:
- TRANSITIONS names every step that can happen. One that it does not name is a bug, not something that a client can cause.
- Only LISTING, OPENING and SECURING wait for the caller, only FLAGS, OPTIONS and SKIPPING for the client. ENTERED and ENDED are final.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much a client may ask of one handshake before it is taken for an attack."""

    option_bytes_max: int = 64 << 10
    """Data of one option. No option that we know needs a fifth of it; longer ones are passed over."""
    options_max: int = 1024
    """Options of one handshake."""
    input_bytes_max: int = 4 << 20
    """Options with their data, passed over or not. The connection ends when a header announces more."""


class TlsOffer(enum.Enum):
    """What this server does about TLS ("TLS support"): NOTLS, SELECTIVETLS without an export that needs it, FORCEDTLS."""

    NONE = enum.auto()
    OFFERED = enum.auto()
    REQUIRED = enum.auto()


@dataclass(frozen=True)
class NeedBytes:
    """Nothing to do until the client sends more."""


@dataclass(frozen=True)
class ListExports:
    """The client wants the names."""


@dataclass(frozen=True)
class OpenExport:
    """The client names an export: to enter it, to be told of it, or to learn its contexts."""

    name: str
    since: tuple[str, ...] = ()
    """The instants that it wants to learn the changes since, as it spelt them."""
    instants: bool = False
    """Whether it wants to know of instants to ask for."""


@dataclass(frozen=True)
class StartTls:
    """Once the output is sent, everything either way goes through TLS: its handshake comes first."""

    leftover: bytes
    """Already received, belongs to the TLS handshake: what came in the clear is never taken for an option."""


@dataclass(frozen=True)
class Enter:
    """Negotiation has succeeded: once the output is sent, the connection belongs to the transmission phase."""

    name: str
    """Of the export that was opened last, as the client spelt it."""
    structured: bool
    extended: bool
    contexts: tuple[tuple[int, str], ...]
    leftover: bytes
    """Already received, belongs to the transmission phase."""


@dataclass(frozen=True)
class End:
    """The connection is to be closed, once the output is sent."""

    reason: str


Event = NeedBytes | ListExports | OpenExport | StartTls | Enter | End
NEED_BYTES = NeedBytes()


class State(enum.Enum):
    FLAGS = enum.auto()
    """Waits for the client's flags."""
    OPTIONS = enum.auto()
    """Waits for an option."""
    SKIPPING = enum.auto()
    """Passes over the data of an option that is too long to keep."""
    LISTING = enum.auto()
    """Waits for the caller's names."""
    OPENING = enum.auto()
    """Waits for the caller's export."""
    SECURING = enum.auto()
    """Waits for the caller's TLS."""
    ENTERED = enum.auto()
    ENDED = enum.auto()


class Step(enum.Enum):
    FLAGS_TAKEN = enum.auto()
    ANSWERED = enum.auto()
    TOO_LONG = enum.auto()
    NAMES_WANTED = enum.auto()
    EXPORT_WANTED = enum.auto()
    EXPORT_TAKEN = enum.auto()
    TLS_WANTED = enum.auto()
    SECURED = enum.auto()
    OVER = enum.auto()


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.FLAGS: {Step.FLAGS_TAKEN: State.OPTIONS, Step.OVER: State.ENDED},
    State.OPTIONS: {
        Step.ANSWERED: State.OPTIONS,
        Step.TOO_LONG: State.SKIPPING,
        Step.NAMES_WANTED: State.LISTING,
        Step.EXPORT_WANTED: State.OPENING,
        Step.TLS_WANTED: State.SECURING,
        Step.OVER: State.ENDED,
    },
    State.SKIPPING: {Step.ANSWERED: State.OPTIONS, Step.OVER: State.ENDED},
    State.LISTING: {Step.ANSWERED: State.OPTIONS},
    State.OPENING: {Step.ANSWERED: State.OPTIONS, Step.EXPORT_TAKEN: State.ENTERED, Step.OVER: State.ENDED},
    State.SECURING: {Step.SECURED: State.OPTIONS},
    State.ENTERED: {},
    State.ENDED: {},
}

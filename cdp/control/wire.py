"""What both ends of the control socket agree on: where the paths begin, and errors: one table, walked in both directions.

A failed request is answered with JSON `{"kind": KIND, "message": SENTENCE}`; KIND is the name of a class of `cdp.errors`.
"""

from __future__ import annotations

from cdp.errors import KINDS, Busy, CdpError, Closed, Corrupt, Invalid, Io, NoSpace, NotFound, Poisoned

PREFIX = "/v1"
"""Of every path; another number when an answer changes its meaning."""

STATUS: dict[type[CdpError], int] = {
    Invalid: 400,
    NotFound: 404,
    Busy: 409,
    Closed: 410,
    NoSpace: 507,
    Corrupt: 500,
    Io: 502,
    Poisoned: 503,
}
_BY_NAME = {kind.__name__: kind for kind in KINDS}


def to_answer(error: CdpError) -> tuple[int, dict[str, str]]:
    """The HTTP status and the body for an error."""
    kind = next((kind for kind in KINDS if isinstance(error, kind)), CdpError)
    return STATUS.get(kind, 500), {"kind": kind.__name__, "message": str(error)}


def from_answer(status: int, body: object) -> CdpError:
    """The error in an answer; a plain CdpError if it is not one of ours."""
    if isinstance(body, dict):
        kind, message = body.get("kind"), body.get("message")
        if isinstance(kind, str) and isinstance(message, str):
            return _BY_NAME.get(kind, CdpError)(message)
    return CdpError(f"the daemon answered with status {status} and no reason")

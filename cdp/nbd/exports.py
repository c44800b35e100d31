"""What the negotiation needs from the rest of the control plane: names that can be listed, and names that can be opened.

Invariants:
- An opened export is released exactly once: when its session ends, or when the handshake that opened it ends without one.
- Nothing here touches a block: `handle` is passed on to the native session as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cdp import _native


class Export(Protocol):
    """What an export name opened to: one use of a volume or of a view of it, until `release()`."""

    @property
    def handle(self) -> _native.Volume | _native.View:
        """Passed on to `_native.Server.attach`. A View is served read-only."""

    @property
    def account(self) -> str:
        """Under what its requests are counted."""

    @property
    def name(self) -> str:
        """The canonical name, answered to a client that asks for NBD_INFO_NAME: the volume's own name for the default export "",
        and with an absolute WHEN. At most 4096 bytes of UTF-8, without NUL."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def read_only(self) -> bool: ...

    @property
    def multi_conn(self) -> bool:
        """Whether NBD_FLAG_CAN_MULTI_CONN is true: a second connection by the *same name* sees the same bytes, and a FLUSH on either
        covers both. False for a relative WHEN and for a scratch view without an ID."""

    @property
    def description(self) -> str | None:
        """One line for people (NBD_INFO_DESCRIPTION); at most 4096 bytes of UTF-8, without NUL."""

    async def since(self, when: str) -> _native.View:
        """The instant that a client names to learn what changed since then (`x-cdp:changed-since:`), held as long as the view lives. May wait.

        Errors (`cdp.errors`): Invalid for what is no WHEN, NotFound for an instant that cannot be reached, others as they come: the context is not offered.
        """

    async def instants(self) -> list[str]:
        """Some that `since` takes, for a client that does not know what to ask for. May wait."""

    async def enter(self, attach: Callable[[], int]) -> int:
        """Begins a session by calling `attach`, in a thread with the priority of requests; its number, which `attach` gave. Is not cancelled half-way.

        Errors (`cdp.errors`): Busy if no connection may begin now; what `attach` raises.
        """

    def release(self) -> None:
        """Called exactly once, when the session or the failed handshake ends. Must not block and must not raise."""


class Exports(Protocol):
    """The server's names. Both methods may wait; many handshakes call them at once."""

    async def names(self) -> list[tuple[str, str]]:
        """(name, description or "") of every export that NBD_OPT_LIST shows, in the order shown.

        Only names that `open` takes: `nbdinfo --list` and `qemu-nbd --list` ask about each and give up at the first that is refused.
        """

    async def open(self, name: str) -> Export:
        """Opens an export for one session, or for the time of one NBD_OPT_INFO.

        `name` is valid UTF-8 without NUL, at most 4096 bytes; "" is the default export, refused unless there is exactly one volume.
        An error's sentence is sent to the client. The handshake's time limit cancels the call: nothing may stay open then.

        Errors (`cdp.errors`): NotFound for a name or an instant that does not exist; Invalid for a name that cannot be one;
        Busy, Closed, Corrupt, Io, NoSpace, Poisoned as they come. Anything that is not a CdpError is a bug: the client
        is told so in general terms, and the server goes on.
        """

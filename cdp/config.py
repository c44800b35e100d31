"""Where the store is, and where its run-time files lie (docs/format.md, "The store")."""

from __future__ import annotations

import os
from pathlib import Path

ROOT_STORE = Path("/var/lib/cdp")
"""Root's, unless it is told otherwise."""


def store_path(chosen: Path | None) -> Path:
    """The store: `chosen`, else `CDP_STORE`, else /var/lib/cdp for root and the XDG data folder for others. Absolute."""
    if chosen is None:
        variable = os.environ.get("CDP_STORE")
        chosen = Path(variable) if variable else _default()
    return Path(os.path.abspath(chosen))


def control_socket(store: Path) -> Path:
    """Where the daemon of a store takes commands."""
    return store / "control.sock"


def nbd_socket(store: Path) -> Path:
    """Where the daemon of a store serves NBD, unless it is told otherwise."""
    return store / "nbd.sock"


def attach_socket(store: Path) -> Path:
    """Where the daemon of a store serves the devices that it attached."""
    return store / "attach.sock"


def daemon_lock(store: Path) -> Path:
    """Held by the daemon of a store; contains its process id."""
    return store / "daemon.lock"


def state_folder() -> Path:
    """Where commands keep what helps them later and is needed for nothing: cdp in the XDG state folder."""
    # As below: an empty or relative value counts as none.
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local/state") / "cdp"


def _default() -> Path:
    if os.geteuid() == 0:
        return ROOT_STORE
    # The XDG base directory specification: an empty or relative value counts as none.
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if data.startswith("/") else Path.home() / ".local/share") / "cdp"

"""Where the run-time files of attached devices lie, and how a device says whose it is.

Invariants:
- What lies under a device names the store that it belongs to: that is how a store on one of its own devices is seen before the device is touched.
- The last part of a front's path tells live volumes, views and scratch views apart (packaging/udev goes by it).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cdp.attach import block
from cdp.errors import Invalid

RUN = Path("/run/cdp/attached")
"""Not in the store: who copies that should not read a whole disk in it."""


def store_key(store: Path) -> str:
    """Names a store in paths and identifiers."""
    return hashlib.sha256(os.fsencode(os.path.realpath(store))).hexdigest()[:12]


def front_folder(store: Path, attachment_id: str) -> Path:
    """Where a device's front is mounted."""
    return RUN / f"{store_key(store)}-{attachment_id}"


def backend(store: Path, attachment_id: str, kind: str) -> str:
    """The back-end identifier of an nbd device."""
    return f"cdp:{store_key(store)}:{attachment_id}:{kind}"


def refuse_own_device(store: Path) -> None:
    """Invalid if the store lies on one of its own devices: nothing that it keeps could be read without it."""
    key = store_key(store)
    for layer in block.under(Path(os.path.realpath(store))):
        file, backend_of = layer.loop_file, layer.nbd_backend or ""
        is_front = file is not None and file.is_relative_to(RUN) and str(file.relative_to(RUN)).startswith(f"{key}-")
        if is_front or backend_of.startswith(f"cdp:{key}:"):
            raise Invalid(f"the store {store} lies on /dev/{layer.name}, which is a device of this very store")

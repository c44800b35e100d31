"""Where a restore goes: a file, a block device, or an export of an NBD server.

Invariants:
- What is refused is refused before a byte is written: a file that exists (unless forced, or known to be a restore of the same volume), the
  store's own files, an origin, an export of this very store, a device that is mounted or in use, a target that is too small.
- After `write`, the target holds the view, whatever it held before; only what differed was written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cdp import devices, files
from cdp.catalog import Catalog, Entry
from cdp.errors import Busy, CdpError, Corrupt, Invalid, NotFound
from cdp.exports import described_volume
from cdp.file_target import DeviceTarget, FileTarget
from cdp.nbd_target import NbdCopy
from cdp.origin import connect, is_nbd_uri
from cdp.store import Progress
from cdp.target_notes import Content

if TYPE_CHECKING:
    from cdp import _native


class Target(Protocol):
    """A place that takes the bytes of a view."""

    name: str
    holds: Content | None
    """What it is sure to hold, if that is known."""
    left: str | None
    """What was left behind, and how to go on, while it is not whole."""

    def begin(self) -> None:
        """From now on it changes."""

    def write(
        self, view: _native.View, progress: Progress, ranges: Sequence[tuple[int, int]] | None = None
    ) -> _native.Restored:
        """Everything that the view shows, or only `ranges` (start, end) of it. Zeros stand where a block is unreadable; the answer names them."""

    def sync(self) -> None:
        """Makes what was written durable."""

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        """Re-reads it: the offset of the first byte that differs from the view, or None."""

    def finish(self, *, whole: bool) -> None:
        """Puts it in its place, durably. `whole`: it holds the view, without a gap. After `sync`."""

    def abandon(self) -> None:
        """Ends it without success. Idempotent, also after `finish`."""


def open_target(text: str, content: Content, catalog: Catalog, *, force: bool) -> Target:
    """A target for `content`. Invalid or Busy, with the reason, if it must not be written to; NotFound, Io, NoSpace."""
    if is_nbd_uri(text):
        return NbdTarget(text, content.size, catalog)
    path = Path(os.path.realpath(text))
    with files.os_errors(f"looking at {path}"):
        status = path.stat() if path.exists() else None
    _refuse_own(path, status, catalog)
    if status is None and path.parent == Path("/dev"):
        raise NotFound(f"there is no device {path}")
    if status is None or stat.S_ISREG(status.st_mode):
        return FileTarget(path, content, force=force)
    if stat.S_ISBLK(status.st_mode):
        behind = devices.loop_file(status.st_rdev)
        if behind is not None and _inside(behind, catalog.store):
            raise Invalid(f"{path} is a loop device on {behind}, which belongs to the store")
        return DeviceTarget(path, status.st_rdev, content)
    raise Invalid(f"{path} is neither a file nor a block device")


class NbdTarget:
    """An export of an NBD server, at least as large as the view; what lies beyond the view is left alone."""

    holds: Content | None = None
    left: str | None = None

    def __init__(self, uri: str, size: int, catalog: Catalog) -> None:
        self.name = uri
        handle = connect(uri, "target")
        try:
            _refuse_own_export(handle, uri, catalog)
            self._copy = NbdCopy(handle, uri, size)
        except BaseException:
            with suppress(Exception):
                handle.shutdown()
            raise

    def begin(self) -> None:
        """Nothing is remembered of it: it is read and compared each time."""

    def write(
        self, view: _native.View, progress: Progress, ranges: Sequence[tuple[int, int]] | None = None
    ) -> _native.Restored:
        return self._copy.write(view, progress, ranges)

    def sync(self) -> None:
        self._copy.flush()

    def finish(self, *, whole: bool) -> None:
        """It is in its place already."""

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        return self._copy.compare(view, progress)

    def abandon(self) -> None:
        self._copy.close()


def _refuse_own(path: Path, status: os.stat_result | None, catalog: Catalog) -> None:
    if _inside(path, catalog.store):
        raise Invalid(f"{path} lies inside the store {catalog.store}")
    if status is None:
        return
    for entry in catalog.entries():
        origin = entry.description.origin if isinstance(entry, Entry) else None
        if origin is None or origin.kind == "nbd":
            continue
        with suppress(OSError):
            other = os.stat(origin.path)
            same = (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
            if same or (stat.S_ISBLK(status.st_mode) and other.st_rdev == status.st_rdev):
                raise Invalid(
                    f"{path} is the origin of the volume {entry.name if isinstance(entry, Entry) else entry.id}"
                )


def _inside(path: Path, store: Path) -> bool:
    return path.is_relative_to(os.path.realpath(store))


def _refuse_own_export(handle: object, uri: str, catalog: Catalog) -> None:
    import nbd  # noqa: PLC0415

    assert isinstance(handle, nbd.NBD)
    try:
        description = handle.get_export_description()
    except nbd.Error:
        return
    volume_id = described_volume(description)
    if volume_id is None:
        return
    try:
        entry = catalog.get(volume_id)
    except Corrupt as error:
        raise Busy(f"{uri} leads to a volume of this store that is being served ({volume_id})") from error
    except CdpError:
        return
    raise Busy(f"{uri} leads to the volume {entry.name} of this store, which is being served")

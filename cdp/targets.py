"""Where a restore goes: a file, a block device, or an export of an NBD server.

Invariants:
- What is refused is refused before a byte is written: a file that exists (without force), the store's own files, an origin, an export
  of this very store, a device that is mounted or in use, a target that is too small.
- A file appears under its name only when it is complete and durable; until then nothing, or the old file, stands there.
- `abandon` leaves no temporary file behind.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cdp import devices, files
from cdp.catalog import Catalog, Entry
from cdp.errors import Busy, CdpError, Corrupt, Invalid, NotFound
from cdp.exports import described_volume
from cdp.nbd_target import NbdCopy
from cdp.origin import connect, is_nbd_uri
from cdp.store import Progress

if TYPE_CHECKING:
    from cdp import _native


class Target(Protocol):
    """A place that takes the bytes of a view."""

    name: str

    def write(self, view: _native.View, progress: Progress) -> _native.Restored:
        """Everything that the view shows. Zeros stand where a block is unreadable; the answer names them."""

    def sync(self) -> None:
        """Makes what was written durable."""

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        """Re-reads it: the offset of the first byte that differs from the view, or None."""

    def finish(self) -> None:
        """Puts it in its place, durably. After `sync`."""

    def abandon(self) -> None:
        """Ends it without success. Idempotent, also after `finish`."""


def open_target(text: str, size: int, catalog: Catalog, *, force: bool) -> Target:
    """A target for `size` bytes. Invalid or Busy, with the reason, if it must not be written to; NotFound, Io, NoSpace."""
    if is_nbd_uri(text):
        return NbdTarget(text, size, catalog)
    path = Path(os.path.realpath(text))
    with files.os_errors(f"looking at {path}"):
        status = path.stat() if path.exists() else None
    _refuse_own(path, status, catalog)
    if status is None and path.parent == Path("/dev"):
        raise NotFound(f"there is no device {path}")
    if status is None or stat.S_ISREG(status.st_mode):
        return FileTarget(path, size, force=force)
    if stat.S_ISBLK(status.st_mode):
        return DeviceTarget(path, status.st_rdev, size, catalog)
    raise Invalid(f"{path} is neither a file nor a block device")


class FileTarget:
    """A sparse file without a name, which it gets at the end: whatever ends us before, nothing is left.

    File systems that have no such files (O_TMPFILE) get one with a temporary name beside the place.
    """

    def __init__(self, path: Path, size: int, *, force: bool) -> None:
        if path.exists() and not force:
            raise Invalid(f"{path} exists: --force replaces it")
        self.name = str(path)
        self._path = path
        self._force = force
        self._temporary: Path | None = None
        with files.os_errors(f"creating {path}"):
            self._descriptor = self._create(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666)
            try:
                os.ftruncate(self._descriptor, size)
            except BaseException:
                self.abandon()
                raise

    def write(self, view: _native.View, progress: Progress) -> _native.Restored:
        return view.restore(self._descriptor, lambda _, done, total: progress(done, total))

    def sync(self) -> None:
        with files.os_errors(f"writing {self._path}"):
            os.fsync(self._descriptor)

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        _forget_cached(self._descriptor)
        return view.compare(self._descriptor, progress)

    def finish(self) -> None:
        with files.os_errors(f"writing {self._path}"):
            if self._force:
                if self._temporary is None:
                    temporary = self._beside()
                    self._link(temporary)
                    self._temporary = temporary
                os.replace(self._temporary, self._path)
                self._temporary = None
            else:
                # rename would replace what appeared meanwhile; a link does not.
                try:
                    self._link(self._path)
                except FileExistsError as error:
                    raise Invalid(f"{self._path} appeared meanwhile: --force replaces it") from error
            files.sync_folder(self._path.parent)

    def abandon(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._temporary is not None:
            with suppress(OSError):
                self._temporary.unlink()
            self._temporary = None

    def _create(self, mode: int) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(self._path.parent, flags | os.O_TMPFILE, mode)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        temporary = self._beside()
        descriptor = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, mode)
        self._temporary = temporary
        return descriptor

    def _beside(self) -> Path:
        return self._path.with_name(f".{self._path.name[:200]}.{secrets.token_hex(4)}.restoring")

    def _link(self, name: Path) -> None:
        source = self._temporary or f"/proc/self/fd/{self._descriptor}"
        # Only with a folder's descriptor does Python ask for the link's target to be followed, which /proc needs.
        folder = os.open(name.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.link(source, name.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)


class DeviceTarget:
    """A block device that nobody uses, at least as large as the view; what lies beyond the view is left alone."""

    def __init__(self, path: Path, device: int, size: int, catalog: Catalog) -> None:
        if (use := devices.user_of(device)) is not None:
            raise Busy(f"{path} is in use: {use}")
        behind = devices.loop_file(device)
        if behind is not None and _inside(behind, catalog.store):
            raise Invalid(f"{path} is a loop device on {behind}, which belongs to the store")
        self.name = str(path)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise files.os_error(f"opening {path} for writing", error) from error
        found = os.lseek(self._descriptor, 0, os.SEEK_END)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        if found < size:
            os.close(self._descriptor)
            raise Invalid(f"{path} has {found} bytes, {size} are needed")

    def write(self, view: _native.View, progress: Progress) -> _native.Restored:
        return view.restore(self._descriptor, lambda _, done, total: progress(done, total))

    def sync(self) -> None:
        with files.os_errors(f"writing {self.name}"):
            os.fsync(self._descriptor)

    def finish(self) -> None:
        """It is in its place already."""

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        _forget_cached(self._descriptor)
        return view.compare(self._descriptor, progress)

    def abandon(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class NbdTarget:
    """An export of an NBD server, at least as large as the view; what lies beyond the view is left alone."""

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

    def write(self, view: _native.View, progress: Progress) -> _native.Restored:
        return self._copy.write(view, progress)

    def sync(self) -> None:
        self._copy.flush()

    def finish(self) -> None:
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


def _forget_cached(descriptor: int) -> None:
    # What is compared should come from the disk. It was made durable before, so the cache may let go of it.
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

"""Files and block devices as targets of a restore.

Invariants:
- A file has its name only while it is whole: as long as a restore is under way, and after it was killed, it is called NAME.cdp-partial.
- Nobody else who locks what they use (QEMU, another restore) has the file open for writing meanwhile.
- What a note says was done was durable before the note was (cdp/target_notes.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cdp import devices, files, target_notes
from cdp.errors import Busy, Invalid
from cdp.origin import device_identity
from cdp.target_notes import Content, Identity, Note, Stretch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdp import _native
    from cdp.store import Progress

PARTIAL = ".cdp-partial"
NOTE_SECONDS = 1.0
"""A killed restore loses at most about so much of its work."""
_NAME_BYTES_MAX = 255


class DescriptorTarget:
    """What files and devices have in common: an open descriptor, and a note of what was done."""

    name: str
    holds: Content | None = None
    left: str | None = None

    def __init__(self, content: Content) -> None:
        self._content = content
        self._descriptor = -1
        self._identity = Identity("", 0)
        self._done: dict[int, Stretch] = {}
        self._noted = 0.0

    def write(
        self, view: _native.View, progress: Progress, ranges: Sequence[tuple[int, int]] | None = None
    ) -> _native.Restored:
        fresh: list[Stretch] = []

        def report(stretch: Stretch | None, handled: int, total: int) -> None:
            if stretch is not None and ranges is None:
                fresh.append(stretch)
            if fresh and time.monotonic() - self._noted >= NOTE_SECONDS:
                self._note(fresh)
            progress(handled, total)

        self._noted = time.monotonic()
        done = [] if ranges is not None else sorted(self._done.values())
        try:
            return view.restore(self._descriptor, report, ranges=ranges, done=done)
        except KeyboardInterrupt:
            self._note(fresh)
            raise

    def sync(self) -> None:
        with files.os_errors(f"writing {self.name}"):
            os.fsync(self._descriptor)

    def compare(self, view: _native.View, progress: Progress) -> int | None:
        # What is compared should come from the disk. It was made durable before, so the cache may let go of it.
        with suppress(OSError):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return view.compare(self._descriptor, progress)

    def _resume(self) -> None:
        """Takes over what an earlier restore of the same content did to the same file or device."""
        note = target_notes.load(self.name)
        if note is not None and not note.complete and note.is_of(self._identity) and note.content == self._content:
            self._done = {stretch[0]: stretch for stretch in note.done}

    def _begin_note(self) -> None:
        with files.os_errors(f"forgetting what {self.name} holds"):
            target_notes.forget(self.name)
        self._save()

    def _note(self, fresh: list[Stretch]) -> None:
        """Makes what was written durable, then says so."""
        with files.os_errors(f"writing {self.name}"):
            os.fdatasync(self._descriptor)
        self._done.update({stretch[0]: stretch for stretch in fresh})
        fresh.clear()
        self._save()
        self._noted = time.monotonic()

    def _save(self) -> None:
        done = tuple(sorted(self._done.values()))
        target_notes.save(self.name, Note(self._identity, self._content, False, done))

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileTarget(DescriptorTarget):
    """A sparse file: a new one, what is left of a restore that was killed, or one that is there and is overwritten where it differs."""

    def __init__(self, path: Path, content: Content, *, force: bool) -> None:
        super().__init__(content)
        self.name = str(path)
        self._path = path
        self._partial = path.with_name(_partial_name(path.name))
        self._force = force
        self._existed = path.exists()
        """Under its own name; else what there is has the other one."""
        self._created = False
        self._under_way = False
        try:
            with files.os_errors(f"opening {path} for writing"):
                self._open()
            self._look()
        except BaseException:
            self.abandon()
            raise

    def begin(self) -> None:
        """From now on it is no longer what it was."""
        with files.os_errors(f"writing {self._path}"):
            if self._existed:
                os.replace(self._path, self._partial)
                files.sync_folder(self._path.parent)
            self._under_way = True
            self.left = f"{self._partial} has what was done so far; the same command goes on from there"
            self._begin_note()
            os.ftruncate(self._descriptor, self._content.size)

    def finish(self, *, whole: bool) -> None:
        """Gives it its name. `whole`: it holds the content, without a gap. After `sync`."""
        with files.os_errors(f"writing {self._path}"):
            if self._under_way:
                self._place()
                self._under_way, self.left = False, None
            identity = target_notes.settled(self._descriptor, self._identity) if whole else None
            if identity is None:
                target_notes.forget(self.name)
            else:
                target_notes.save(self.name, Note(identity, self._content, True))

    def abandon(self) -> None:
        self._close()
        # An empty file would be in the way, and helps nobody.
        if self._created and not self._under_way:
            with suppress(OSError):
                self._partial.unlink()
        self._created = False

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        if self._existed:
            self._descriptor = os.open(self._path, flags)
        else:
            try:
                self._descriptor = os.open(self._partial, flags | os.O_CREAT | os.O_EXCL, 0o666)
                self._created = True
            except FileExistsError:
                self._descriptor = os.open(self._partial, flags)
        _lock(self._descriptor, self.name)

    def _look(self) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"{self._partial} is no file")
        self._identity = Identity(str(status.st_dev), status.st_ino)
        if not self._existed:
            self._resume()
            return
        if (use := devices.loop_on(self._path)) is not None:
            raise Busy(f"{self._path} is in use: it is the file behind {use}")
        note = target_notes.load(self.name)
        ours = note is not None and note.is_of(self._identity) and note.identity.modified == status.st_mtime_ns
        same_volume = note is not None and note.content.volume == self._content.volume
        if not self._force and not (ours and same_volume):
            what = "exists" if not ours else "was restored from another volume"
            raise Invalid(f"{self._path} {what}: --force overwrites it")
        if note is not None and ours and note.complete and note.identity.changed == status.st_ctime_ns:
            self.holds = note.content

    def _place(self) -> None:
        if self._force:
            os.replace(self._partial, self._path)
        else:
            # rename would replace what appeared meanwhile; a link does not.
            try:
                os.link(self._partial, self._path, follow_symlinks=False)
            except FileExistsError as error:
                raise Invalid(f"{self._path} appeared meanwhile: --force replaces it") from error
            files.sync_folder(self._path.parent)
            os.unlink(self._partial)
        files.sync_folder(self._path.parent)


class DeviceTarget(DescriptorTarget):
    """A block device that nobody uses, at least as large as the view; what lies beyond the view is left alone."""

    def __init__(self, path: Path, device: int, content: Content) -> None:
        super().__init__(content)
        if (use := devices.user_of(device)) is not None:
            raise Busy(f"{path} is in use: {use}")
        self.name = str(path)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise files.os_error(f"opening {path} for writing", error) from error
        found = os.lseek(self._descriptor, 0, os.SEEK_END)
        if found < content.size:
            self._close()
            raise Invalid(f"{path} has {found} bytes, {content.size} are needed")
        self._identity = Identity(device_identity(device), 0)

    def begin(self) -> None:
        """From now on it is no longer what it was."""
        self._resume()
        self._begin_note()
        self.left = f"{self.name} is not whole; the same command goes on from there"

    def finish(self, *, whole: bool) -> None:
        """It is in its place already. Nothing tells later whether a device was written to, so nothing is remembered."""
        assert whole in (True, False)
        self.left = None
        with files.os_errors(f"forgetting what {self.name} holds"):
            target_notes.forget(self.name)

    def abandon(self) -> None:
        self._close()


def _partial_name(name: str) -> str:
    if len(os.fsencode(name)) + len(PARTIAL) <= _NAME_BYTES_MAX:
        return name + PARTIAL
    return hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest() + PARTIAL


def _lock(descriptor: int, name: str) -> None:
    # struct flock: type, whence, start, length (0: to the end), pid (0 for a lock of the open file description).
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
    except BlockingIOError as error:
        raise Busy(f"{name} is locked by somebody who uses it") from error
    except OSError:
        # A file system without locks: there is nothing to ask.
        return

"""A scratch view beside its model: a copy of an instant, written to, and thrown away."""

from __future__ import annotations

import nbd
import pytest

from cdp.errors import NotFound
from tests.property.model_disk import Disk
from tests.property.model_readers import connect, read_all


class Scratch:
    """nbd.Error if the instant is refused. `scratch_id` "": it is gone with its connection."""

    def __init__(self, disk: Disk, lsn: int, scratch_id: str) -> None:
        self.disk = disk
        self.lsn = lsn
        self.scratch_id = scratch_id
        self._uri = disk.daemon.uri(disk.name, f"lsn:{lsn}+scratch" + (f"={scratch_id}" if scratch_id else ""))
        self._handle = connect(self._uri)
        seen = read_all(self._handle, disk.model.size)
        disk.model.pin_down(lsn, seen)
        self._begun = seen
        self._now = bytearray(seen)

    def write(self, offset: int, content: bytes) -> None:
        self._handle.pwrite(content, offset)
        self._now[offset : offset + len(content)] = content

    def end(self) -> None:
        """It held what was written to it, and no longer does."""
        self._assert_holds(self._now)
        self._handle.shutdown()
        if self.scratch_id:
            # A connection that comes back finds it, also when the instant that it was made of was given up since.
            self._handle = connect(self._uri)
            self._assert_holds(self._now)
            self._handle.shutdown()
            self.disk.control(lambda store: store.release_scratch(self.disk.name, self.scratch_id, force=True))
            with pytest.raises(NotFound):
                self.disk.control(lambda store: store.release_scratch(self.disk.name, self.scratch_id, force=True))
        try:
            self._handle = connect(self._uri)
        except nbd.Error:
            assert not self.disk.reach().holds(self.lsn)
            return
        self._assert_holds(self._begun)
        self._handle.shutdown()
        if self.scratch_id:
            self.disk.control(lambda store: store.release_scratch(self.disk.name, self.scratch_id, force=True))

    def _assert_holds(self, expected: bytes | bytearray) -> None:
        same = read_all(self._handle, 65536) == expected
        assert same, f"the scratch view of {self.disk.name} at lsn:{self.lsn}"

"""One history for all tests of a file: each test puts back what it damaged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.damage.history import History, small_history

MEMORY = Path("/dev/shm")
"""Thousands of openings, each of which drops caches: on a disk most of the time would go into reading the same again."""


def _in_memory() -> Path:
    return Path(tempfile.mkdtemp(prefix="cdp-", dir=MEMORY if MEMORY.is_dir() else None))


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """An empty folder that costs no disk."""
    folder = _in_memory()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def _whole() -> Iterator[History]:
    folder = _in_memory()
    try:
        yield small_history(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def history(_whole: History) -> Iterator[History]:
    """A volume that was stopped cleanly, without damage."""
    yield _whole
    for path in _whole.folder.iterdir():
        if path.name not in _whole.files:
            path.unlink()
    for name in _whole.files:
        _whole.put_back(name)

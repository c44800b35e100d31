"""What is written: three kinds of data, as files that a client takes its payloads from.

`half`: each 512 bytes are half random, half zero, as fio makes them with buffer_compress_percentage=50. It flatters LZ4, which skips the zeros
in one step. `real`: the shared libraries of this machine, one after the other. `random`: bytes that do not compress.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Literal, get_args

Data = Literal["half", "real", "random"]
KINDS: tuple[Data, ...] = get_args(Data)

POOL_BYTES = 128 << 20
"""Larger than a processor's caches: a client that reads its payloads from those would look faster than one with data of its own."""
CHUNK = 512
LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/lib64"),
    Path("/usr/lib"),
)


def pool(kind: Data, folder: Path, size: int = POOL_BYTES) -> Path:
    """The file with data of this kind, made in `folder` if it is not there. `real` is smaller on a machine with few libraries."""
    made = folder / f"{kind}.{size}.pool"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(".new")
        with unfinished.open("wb") as file:
            if kind == "real":
                _concatenate(file.fileno(), size)
            else:
                file.write(half_compressible(size) if kind == "half" else random.Random(1).randbytes(size))
        unfinished.replace(made)
    return made


def half_compressible(size: int, seed: int = 1) -> bytes:
    """Chunks of 512 bytes, each half random and half zero."""
    noise = random.Random(seed).randbytes(size // 2)
    half = CHUNK // 2
    return b"".join(noise[at : at + half] + bytes(half) for at in range(0, len(noise), half))[:size]


def libraries() -> list[Path]:
    """Regular files that hold shared libraries, each once, in the order of their names."""
    found = {path.resolve() for folder in LIBRARIES if folder.is_dir() for path in folder.glob("*.so*")}
    return sorted(path for path in found if path.is_file() and path.suffix != ".conf")


def _concatenate(target: int, size: int) -> None:
    left = size
    for path in libraries():
        with path.open("rb") as source:
            length = min(left, os.fstat(source.fileno()).st_size)
            with os.fdopen(os.dup(target), "ab") as out:
                if length == left:
                    out.write(source.read(length))
                else:
                    shutil.copyfileobj(source, out)
        left -= length
        if not left:
            return

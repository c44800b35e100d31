"""The small C programs of the suite, compiled when they are asked for: `load` (an NBD client) and `limits` (of the machine).

They need a C compiler and, for `load`, libnbd's header (Debian: libnbd-dev). A program that is newer than its sources is used as it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.rig.process import run

SOURCES = Path(__file__).parent / "c"
BUILT = Path(__file__).parents[1] / ".cache" / "benchmarks"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
LIBRARIES = {"load": ("-lnbd", "-lpthread"), "limits": ("-ldl",)}


def program(name: str) -> Path:
    """The compiled program; ProgramFailed with the compiler's words if it does not compile."""
    built = BUILT / name
    newest = max(source.stat().st_mtime_ns for source in SOURCES.iterdir())
    if not built.exists() or built.stat().st_mtime_ns < newest:
        BUILT.mkdir(parents=True, exist_ok=True)
        # Two suites that start at once must not run half a program.
        unfinished = built.with_suffix(".new")
        run("cc", *FLAGS, "-o", unfinished, SOURCES / f"{name}.c", *LIBRARIES[name])
        unfinished.replace(built)
    return built


def can_build_load() -> bool:
    """Whether a compiler and libnbd's header are there."""
    return shutil.which("cc") is not None and Path("/usr/include/libnbd.h").exists()

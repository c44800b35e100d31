"""Running a command line, and what happens to its errors.

Invariant:
- A `CdpError` is one sentence on standard error and its exit code (cdp/errors.py), never a traceback. Wrong usage is 2, as Invalid is.
"""

from __future__ import annotations

import io
import os
import sys

import typer

from cdp.errors import CdpError


def run(application: typer.Typer, name: str) -> None:
    """Runs a command line to its exit code. `name`: what it calls itself."""
    for stream in (sys.stdout, sys.stderr):
        # A path need not be text that the terminal knows: it is shown escaped, and is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        application(prog_name=name)
    except CdpError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough; Python's own flush at the end must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)

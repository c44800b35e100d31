"""Runs a program to its end: its output comes back, and a failure shows all of it.

Nothing here waits without a bound: a program that hangs is ended by the process that started it and fails the test.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS_MAX = 120.0


class ProgramFailed(AssertionError):
    """The program ended with another exit code than the test asked for."""


def run(
    *command: str | Path,
    exit_code: int | None = 0,
    env: Mapping[str, str] | None = None,
    seconds: float = SECONDS_MAX,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[str]:
    """Runs to the end and returns output and errors as text. ProgramFailed if the exit code is not `exit_code` (None: any will do)."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=seconds, env=env, check=False)
    except subprocess.TimeoutExpired as expired:
        raise ProgramFailed(
            _report(words, f"still running after {seconds} s", expired.stdout, expired.stderr)
        ) from None
    if exit_code is not None and done.returncode != exit_code:
        raise ProgramFailed(_report(words, f"exit code {done.returncode}, not {exit_code}", done.stdout, done.stderr))
    return subprocess.CompletedProcess(words, done.returncode, _text(done.stdout), _text(done.stderr))


def _report(words: Sequence[str], what: str, stdout: bytes | None, stderr: bytes | None) -> str:
    return f"{' '.join(words)}: {what}\n--- stdout\n{_text(stdout)}\n--- stderr\n{_text(stderr)}"


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")

"""Fuzzes the NBD handshake: python tools/fuzz_nbd_options.py --seconds 600

Each input is what a client sends. It must raise nothing, give the same answer in one piece and in many, keep and answer a bounded amount, and
every answer must be well-formed. Inputs start from tests/fuzz/nbd_options. With atheris installed they are led by coverage; without it they are
mutated at random, and the printed seed repeats the run (--seed).

A finding is written to .cache/fuzz and named; `python tools/fuzz_nbd_options.py FILE…` tries such files alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEEDS = ROOT / "tests" / "fuzz" / "nbd_options"
FINDINGS = ROOT / ".cache" / "fuzz"
INPUT_BYTES_MAX = 8192

Check = Callable[[bytes], None]


def load() -> Check:
    """The target. Imports happen in here, so that atheris can instrument what they load."""
    from cdp.nbd.handshake import Handshake  # noqa: PLC0415
    from cdp.nbd.states import End, Enter, Event, Limits, NeedBytes  # noqa: PLC0415
    from tests.unit.nbd_dialogue import GREETING, WORLD, replies, settle  # noqa: PLC0415

    limits = Limits(option_bytes_max=1024, options_max=64, input_bytes_max=6000)
    output_bytes_max = limits.options_max * 1024

    def run(data: bytes, step: int) -> tuple[bytes, Event, bytes]:
        """Output, end, and what the end left unread; `step` bytes at a time."""
        machine = Handshake(limits)
        out = machine.output()
        assert out == GREETING
        out, event = b"", settle(machine, WORLD)
        for start in range(0, len(data), step):
            machine.receive(data[start : start + step])
            event = settle(machine, WORLD)
            out += machine.output()
            assert len(machine._input) < 16 + limits.option_bytes_max, "too much input is kept"
            if isinstance(event, Enter):
                unread = event.leftover + data[start + step :]
                return out, Enter(event.name, event.structured, event.extended, event.contexts, b""), unread
            if isinstance(event, End):
                return out, event, b""
        assert isinstance(event, NeedBytes)
        return out, event, b""

    def check(data: bytes) -> None:
        whole = run(data, max(len(data), 1))
        for step in (1, 1 + sum(data[:8]) % 61):
            assert run(data, step) == whole, f"another answer in pieces of {step}"
        out, event, unread = whole
        assert len(out) <= output_bytes_max, "too long an answer"
        assert data.endswith(unread)
        if not isinstance(event, Enter):
            replies(out)

    return check


def mutated(data: bytes, rng: random.Random, seeds: list[bytes]) -> bytes:
    """One to four small changes, of the kinds that protocol parsers stumble over."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = rng.randbytes(1)
            case 1:
                out[at : at + 4] = rng.choice([0, 1, 4, 4096, 4097, 1 << 16, (1 << 32) - 1]).to_bytes(4, "big")
            case 2:
                del out[at : at + rng.randint(1, 20)]
            case 3:
                out[at:at] = rng.randbytes(rng.randint(1, 20))
            case _:
                other = rng.choice(seeds)
                out[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(out[:INPUT_BYTES_MAX])


def fuzz_blindly(check: Check, seconds: float, seed: int) -> None:
    """Random mutations of the seeds until the time is up; a finding is written down and raised."""
    print(f"without atheris: random mutations, --seed {seed}")
    rng = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    tried, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(rng.choice(seeds), rng, seeds)
        try:
            check(data)
        except BaseException:
            path = FINDINGS / f"nbd_options-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            print(f"finding: {path}", file=sys.stderr)
            raise
        tried += 1
    print(f"{tried} inputs, no finding")


def fuzz_by_coverage(atheris: Any, check: Check, seconds: float, seed: int) -> None:
    """Never returns: libFuzzer ends the process, with an exit code of its own for a finding."""
    corpus = tempfile.mkdtemp(prefix="cdp-fuzz-")
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, int(seconds))}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-seed={seed}",
        f"-artifact_prefix={FINDINGS}{os.sep}nbd_options-",
        "-timeout=10",
        "-verbosity=1",
        "-print_final_stats=1",
        corpus,
        str(SEEDS),
    ]
    atheris.Setup(arguments, check)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the NBD handshake.")
    parser.add_argument("files", nargs="*", type=Path, help="inputs to try once each, instead of fuzzing")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31))
    wish = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    FINDINGS.mkdir(parents=True, exist_ok=True)
    if wish.files:
        check = load()
        for path in wish.files:
            check(path.read_bytes())
    elif importlib.util.find_spec("atheris") is None:
        fuzz_blindly(load(), wish.seconds, wish.seed)
    else:
        atheris: Any = importlib.import_module("atheris")
        with atheris.instrument_imports(include=["cdp.nbd"]):
            check = load()
        fuzz_by_coverage(atheris, check, wish.seconds, wish.seed)


if __name__ == "__main__":
    main()

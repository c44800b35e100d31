"""The fuzz target holds on its seeds, and its mutations without coverage stay in bounds and do change something."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tools import fuzz_nbd_options as fuzz

SEEDS = sorted(fuzz.SEEDS.iterdir())


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_a_seed_has_no_finding(path: Path) -> None:
    fuzz.load()(path.read_bytes())


def test_mutations_stay_within_bounds_and_differ() -> None:
    rng = random.Random(1)
    seeds = [path.read_bytes() for path in SEEDS]
    made = {fuzz.mutated(rng.choice(seeds), rng, seeds) for _ in range(500)}
    assert len(made) > 400
    assert max(map(len, made)) <= fuzz.INPUT_BYTES_MAX

"""`python -m benchmarks.restore`: how fast a volume comes back, beside dd and qemu-img on the same bytes.

Each round takes all in turn, with the page cache dropped before each, and each leaves a new file that is durable when the clock stops:
`dd conv=fsync` of the image, `pit-restore` of the volume, `qemu-img convert` of an internal snapshot of a qcow2 image and a sync. The second
restore is one to a later instant on the same target.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from cdp.catalog import Catalog
from cdp.store import LocalStore
from cdp.volume import OpenVolume
from cdp.when import Latest
from tests.rig.cdp import environment
from tests.rig.content import content
from tests.rig.process import run

ROOT = Path(__file__).parents[1]
BLOCK = 4096
POOL_BYTES = 32 << 20


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument(
        "--pattern",
        choices=("mixed", "scattered"),
        default="mixed",
        help="how the volume was written: MiB after MiB and a quarter of its blocks again, or each block at random",
    )
    parser.add_argument("--random", action="store_true", help="bytes that do not compress; else half of them do")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    return parser.parse_args(words)


def make_volume(store: Path, chosen: argparse.Namespace) -> None:
    """A volume `disk` with bookmarks `then` and, a twentieth of its blocks later, `later`."""
    rng = random.Random(1)
    pool = rng.randbytes(POOL_BYTES) if chosen.random else content(POOL_BYTES, 1)
    size = chosen.size_mib << 20
    LocalStore(store).create("disk", size, BLOCK, None)
    volume = OpenVolume(Catalog(store).find("disk"))

    def write(offset: int, length: int) -> None:
        start = rng.randrange(0, POOL_BYTES - length, BLOCK)
        volume.native.write(offset, pool[start : start + length])

    blocks = list(range(size // BLOCK))
    rng.shuffle(blocks)
    if chosen.pattern == "mixed":
        for offset in range(0, size, 1 << 20):
            write(offset, 1 << 20)
        blocks = blocks[: len(blocks) // 4]
    for block in blocks:
        write(block * BLOCK, BLOCK)
    volume.add_bookmark("then", Latest())
    for _ in range(size // BLOCK // 20):
        write(rng.randrange(size // BLOCK) * BLOCK, BLOCK)
    volume.add_bookmark("later", Latest())
    volume.close()


def pit_restore(store: Path, at: str, target: Path) -> dict[str, object]:
    words = ("disk", "--at", f"bookmark:{at}", "--to", target, "--store", store, "--json")
    return dict(json.loads(run(sys.executable, "-m", "cdp.cli.restore", *words, env=environment(), seconds=600).stdout))


def make_qcow2(image: Path, qcow2: Path) -> None:
    """The image with a snapshot, and a part of it overwritten since."""
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2, seconds=600)
    run("qemu-img", "snapshot", "-c", "then", qcow2)
    run("qemu-io", "-c", f"write -P 7 0 {image.stat().st_size // 20 // 512 * 512}", qcow2)


def dropped() -> None:
    """Empties the page cache, if we may."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        print("the page cache stays: only root can drop it", file=sys.stderr)


def timed(work: Callable[[], object]) -> float:
    dropped()
    began = time.monotonic()
    work()
    return time.monotonic() - began


def differing(one: Path, other: Path) -> int:
    """Bytes of the blocks in which two files differ."""
    count = 0
    with one.open("rb") as a, other.open("rb") as b:
        while here := a.read(1 << 20):
            there = b.read(1 << 20)
            if here != there:
                count += sum(
                    BLOCK for at in range(0, len(here), BLOCK) if here[at : at + BLOCK] != there[at : at + BLOCK]
                )
    return count


def measure(chosen: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    store, image, qcow2, out = folder / "store", folder / "image", folder / "image.qcow2", folder / "out"
    store.mkdir()
    make_volume(store, chosen)
    pit_restore(store, "then", image)
    make_qcow2(image, qcow2)

    def convert() -> None:
        words = ("qemu-img", "convert", "-l", "snapshot.name=then", "-f", "qcow2", "-O", "raw", qcow2, out)
        subprocess.run(words, check=True)
        run("sync", out, seconds=600)

    contenders: dict[str, Callable[[], object]] = {
        "dd conv=fsync": lambda: run("dd", f"if={image}", f"of={out}", "bs=1M", "conv=fsync", seconds=600),
        "pit-restore": lambda: pit_restore(store, "then", out),
        "qemu-img convert": convert,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(chosen.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            out.unlink(missing_ok=True)
            seconds[name].append(timed(contenders[name]))
            assert run("cmp", image, out, seconds=600).returncode == 0
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    out.unlink()
    pit_restore(store, "then", out)
    facts: dict[str, object] = {}
    seconds["pit-restore, again"] = [timed(lambda: facts.update(pit_restore(store, "later", out)))]
    wanted = differing(image, out)
    print(f"restored to a later instant: {facts['written_bytes']} bytes written, {wanted} differ", file=sys.stderr)
    return seconds


def main() -> None:
    chosen = arguments()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="r-", dir=chosen.folder) as folder:
        seconds = measure(chosen, Path(folder))
    reference = median(seconds["dd conv=fsync"])
    print("| what | median s | MiB/s | least s | most s | speed / dd |\n|---|--:|--:|--:|--:|--:|")
    for name, measured in seconds.items():
        middle = median(measured)
        print(
            f"| {name} | {middle:.2f} | {chosen.size_mib / middle:,.0f} | {min(measured):.2f} | {max(measured):.2f} "
            f"| {reference / middle:.2f} |"
        )


if __name__ == "__main__":
    main()

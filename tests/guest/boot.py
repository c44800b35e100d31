"""Boots a Debian kernel under QEMU with this machine's file system as its read-only root, and runs a module of tests in it.

Invariants:
- The machine is not touched: the guest sees its files through virtiofsd, read-only, and writes to its own memory.
- Both processes are ended through their own handles, whatever happens.
- The outcome is the module's exit code, told on the serial line: a guest that says nothing has failed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.rig.cdp import ROOT

MEMORY = "1536M"
SOCKET_SECONDS = 20.0
VERDICT = re.compile(r"^guest: exit ([0-9]+)\s*$", re.MULTILINE)
INIT = """#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LANG=C.UTF-8
mount -t proc proc /proc && mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm
for folder in /run /mnt /tmp; do mount -t tmpfs tmpfs "$folder"; done
ip link set lo up 2>/dev/null
for module in {modules}; do (exec -a modprobe {root}/bin/kmod -d {root} "$module"); done
cd {checkout}
PYTHONPATH={checkout} PYTHONDONTWRITEBYTECODE=1 CDP_GUEST={root} {python} -m {module}
echo "guest: exit $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def run_in_guest(root: Path, module: str, *, modules: tuple[str, ...], seconds: float) -> tuple[int | None, str]:
    """Runs `python -m module` in the guest; its exit code (None: it told none), and all that it printed.

    `root`: what tools/fetch-guest.sh made. `modules`: kernel modules to load first.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdp-guest-")))
        init = folder / "init"
        places = {"root": shlex.quote(str(root)), "checkout": shlex.quote(str(ROOT))}
        text = INIT.format(modules=" ".join(modules), python=shlex.quote(sys.executable), module=module, **places)
        init.write_text(text)
        init.chmod(0o755)
        libraries = os.pathsep.join(str(root / part) for part in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
        env = {**os.environ, "LD_LIBRARY_PATH": libraries}
        socket = folder / "vfs.sock"
        _start(stack, _virtiofsd(root, socket), env)
        deadline = time.monotonic() + SOCKET_SECONDS
        while not socket.exists():
            assert time.monotonic() < deadline, "virtiofsd does not start"
            time.sleep(0.02)
        guest = _start(stack, _qemu(root, socket, init), env, stdout=subprocess.PIPE)
        try:
            said = guest.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            guest.kill()
            said = guest.communicate()[0]
    told = VERDICT.search(said)
    return (int(told[1]) if told else None), said


def _start(
    stack: ExitStack, command: list[str], env: dict[str, str], stdout: int | None = None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout or subprocess.DEVNULL,
        stderr=subprocess.STDOUT if stdout else subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _virtiofsd(root: Path, socket: Path) -> list[str]:
    daemon = root / "usr/lib/qemu/virtiofsd"
    return [str(daemon), f"--socket-path={socket}", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]


def _qemu(root: Path, socket: Path, init: Path) -> list[str]:
    kernel = next((root / "boot").glob("vmlinuz-*"))
    share = root / "usr/share"
    # /dev/kvm may open and still be of no use: always TCG.
    return [
        *(str(root / "usr/bin/qemu-system-x86_64"), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-L", str(share / "qemu"), "-L", str(share / "seabios"), "-m", MEMORY, "-machine", "q35,memory-backend=mem"),
        *("-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on", "-nodefaults", "-display", "none"),
        *("-no-reboot", "-serial", "stdio", "-kernel", str(kernel)),
        *("-append", f"console=ttyS0 quiet panic=-1 root=hostroot rootfstype=virtiofs ro init={init}"),
        *("-chardev", f"socket,id=vfs,path={socket}", "-device", "vhost-user-fs-pci,chardev=vfs,tag=hostroot"),
    ]

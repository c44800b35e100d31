"""QEMU's control protocol: one JSON object a line, an answer for each question, events in between."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

SECONDS = 60.0


class Qmp:
    """A connection whose greeting is over. RuntimeError with QEMU's words where it refuses."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, what: str, **arguments: object) -> Any:
        """What the command returns."""
        self._lines.write(json.dumps({"execute": what, "arguments": arguments}) + "\n")
        self._lines.flush()
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{what}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise RuntimeError(f"{what}: QEMU closed the connection")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

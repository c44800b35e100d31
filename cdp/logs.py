"""What the daemon says on standard error: one line an event, as text or as JSON.

Invariants:
- An event is one line, whatever is in it; a traceback is a field of it in JSON, and follows it in text.
- What an event is about is told apart from the sentence (`extra={"volume": NAME}`): `volume`, `session`, `export`.
"""

from __future__ import annotations

import json
import logging
import sys
import time

ABOUT = ("volume", "session", "export")
"""What an event may be about, besides its sentence."""


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339), `level`, `logger`, `message`, what it is about, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        seconds, nanoseconds = divmod(int(record.created * 1e6) * 1000, 10**9)
        event: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {key: value for key in ABOUT if (value := getattr(record, key, None)) is not None}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class TextLines(logging.Formatter):
    """`LEVEL logger: volume: sentence`."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname} {record.name}: {record.getMessage()}".replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Seldom:
    """Warnings that strangers can bring about at will: so many of them in a time, and of the others their number."""

    def __init__(self, log: logging.Logger, *, most: int = 20, seconds: float = 60.0) -> None:
        self._log = log
        self._most = most
        self._seconds = seconds
        self._said = 0

    def warning(self, sentence: str, *args: object) -> None:
        self._said += 1
        if self._said <= self._most:
            self._log.warning(sentence, *args)
        if self._said == self._most:
            self._log.warning("there are many of these: more of them are counted for %g s", self._seconds)

    async def tell_rest(self) -> None:
        """Tells, from time to time, how many there were besides. Runs until it is cancelled."""
        import trio  # noqa: PLC0415 (the command line logs without an event loop)

        while True:
            await trio.sleep(self._seconds)
            if self._said > self._most:
                self._log.warning("%d more clients were refused", self._said - self._most)
            self._said = 0


def set_up(level: str, form: str) -> None:
    """From here on: `level` is debug, info, warning or error; `form` text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # The HTTP client and server tell of each request.
    for name in ("hypercorn.access", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)

"""The configuration of the daemon: a TOML file, read and checked.

    STORE/cdp.toml, or for the default store of root also /etc/cdp/cdp.toml

Invariants:
- What is not understood is refused, with the line, the key and what is allowed: a typing error is not a default.
- A table of the file is a table of TABLES, a key of it a line there: what can be written is what is checked.
- An option of `cdp serve` stands above the file.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdp import config, files
from cdp.errors import Invalid
from cdp.retention import policy
from cdp.sizes import parse_size
from cdp.sockets import Address, SocketTerms, TcpAddress, UnixAddress, check_exposure, parse_address, parse_tcp
from cdp.tls import Tls, TlsSettings

SYSTEM_FILE = Path("/etc/cdp/cdp.toml")
FILE_BYTES_MAX = 1 << 20
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the daemon. An orderly end waits `stop_seconds` for clients, then `close_seconds` for volumes; memory in bytes."""

    sessions: int = 1024
    memory_bytes: int = 128 << 20
    stall_seconds: float = 30.0
    stop_seconds: float = 5.0
    close_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says; what it does not say is the default. `listen` empty: STORE/nbd.sock. `retention`: settings of new volumes, as text."""

    listen: tuple[Address, ...] = ()
    insecure_tcp: bool = False
    tls: TlsSettings = field(default_factory=TlsSettings)
    nbd_socket: SocketTerms = field(default_factory=SocketTerms)
    control_socket: SocketTerms = field(default_factory=SocketTerms)
    metrics: TcpAddress | None = None
    log_level: str = "warning"
    log_format: str = "text"
    limits: Limits = field(default_factory=Limits)
    retention: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Key:
    """How a value is read: `read` raises ValueError (or Invalid, with its own sentence) for what is not `allowed`."""

    read: Callable[[Any], Any]
    allowed: str


def find(store: Path, chosen: Path | None = None) -> Path | None:
    """The file that counts: `chosen`, else that of the store, else that of the system where the store is root's default. None: there is none."""
    if chosen is not None:
        return chosen
    places = [store / "cdp.toml"]
    if os.geteuid() == 0 and store == config.ROOT_STORE:
        places.append(SYSTEM_FILE)
    return next((place for place in places if place.exists()), None)


def read(path: Path) -> Configuration:
    """NotFound if the file is not there; Invalid, with every fault that was found, a line each, if it is wrong."""
    with files.os_errors(f"reading {path}"), open(path, "rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    try:
        return parse(data)
    except Invalid as error:
        raise Invalid("\n".join(f"{path}{line}" for line in str(error).splitlines())) from error


def for_store(store: Path, chosen: Path | None = None) -> Configuration:
    """What counts for a store: its file, or the defaults."""
    path = find(store, chosen)
    return Configuration() if path is None else read(path)


def parse(data: bytes) -> Configuration:
    """Invalid if it is wrong: a line `:LINE: SENTENCE` for each fault (without a number where none is known)."""
    if len(data) > FILE_BYTES_MAX:
        raise Invalid(f": more than {FILE_BYTES_MAX} bytes are no configuration")
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Invalid(f":{line}: it is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise Invalid(_syntax(str(error), text)) from error
    except RecursionError as error:
        raise Invalid(": it is nested too deeply") from error
    faults: list[tuple[int, str]] = []
    lines = _Lines(text)
    values = {table: _table(table, document.get(table, {}), lines, faults) for table in TABLES}
    for name in document.keys() - TABLES.keys():
        faults.append((lines.of(name), f"there is no table or key {name!r}: {_list(TABLES)}"))
    if not faults:
        made = _configuration(values)
        faults = [(lines.of(*place), sentence) for place, sentence in _contradictions(made)]
    if faults:
        raise Invalid(
            "\n".join(f":{line}: {sentence}" if line else f": {sentence}" for line, sentence in sorted(faults))
        )
    return made


def _table(name: str, value: object, lines: _Lines, faults: list[tuple[int, str]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        faults.append((lines.of(name), f"{name} is a table: write [{name}]"))
        return {}
    read: dict[str, Any] = {}
    keys = TABLES[name]
    for key, given in value.items():
        line = lines.of(name, key)
        known = keys.get(key)
        if known is None:
            faults.append((line, f"[{name}] has no key {key!r}: {_list(keys)}"))
            continue
        try:
            read[key] = known.read(given)
        except Invalid as error:
            faults.append((line, f"[{name}] {key}: {error}"))
        except (ValueError, TypeError, KeyError):
            faults.append((line, f"[{name}] {key} cannot be {_shown(given)}: {known.allowed}"))
    return read


def _configuration(values: Mapping[str, Mapping[str, Any]]) -> Configuration:
    nbd, limits = values["nbd"], values["limits"]
    return Configuration(
        listen=nbd.get("listen", ()),
        insecure_tcp=nbd.get("insecure_tcp", False),
        tls=TlsSettings(**values["tls"]),
        nbd_socket=_terms(nbd),
        control_socket=_terms(values["control"]),
        metrics=values["metrics"].get("listen"),
        log_level=values["log"].get("level", "warning"),
        log_format=values["log"].get("format", "text"),
        limits=Limits(**limits),
        retention=values["retention"],
    )


def _terms(values: Mapping[str, Any]) -> SocketTerms:
    return SocketTerms(**{key: values[key] for key in ("owner", "group", "mode") if key in values})


def _contradictions(made: Configuration) -> Iterable[tuple[tuple[str, ...], str]]:
    """What was read key by key and cannot be together."""
    try:
        policy.changed(policy.DEFAULT, made.retention)
    except Invalid as error:
        yield ("retention",), f"[retention]: {error}"
    try:
        made.tls.check()
    except Invalid as error:
        yield ("tls",), f"[tls]: {error}"
    guarded = made.insecure_tcp or made.tls.keeps_strangers_out
    for place, addresses, safe in (
        (("nbd", "listen"), made.listen, guarded),
        (("metrics", "listen"), (made.metrics,), made.insecure_tcp),
    ):
        for address in addresses:
            if isinstance(address, TcpAddress):
                try:
                    check_exposure(address, insecure=safe, tls=place[0] == "nbd")
                except Invalid as error:
                    yield place, f"[{place[0]}] {place[1]}: {error}"


def _addresses(value: Any) -> tuple[Address, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError
    return tuple(_address(text) for text in value)


def _address(text: Any) -> Address:
    address = parse_address(_text(text))
    if isinstance(address, UnixAddress) and not address.path.is_absolute():
        raise Invalid(f"{text!r} has to be an absolute path")
    return address


def _file(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise Invalid(f"{value!r} has to be an absolute path")
    return path


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _one_of(words: tuple[str, ...]) -> Key:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Key(read, f"one of {', '.join(repr(word) for word in words)}")


def _whole(least: int, most: int) -> Key:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError
        return value

    return Key(read, f"a whole number from {least} to {most}")


def _seconds(most: float) -> Key:
    def read(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
            raise ValueError
        return float(value)

    return Key(read, f"seconds, more than 0 and at most {most:g}")


def _memory(value: Any) -> int:
    size = parse_size(value) if isinstance(value, str) else int(_whole(0, 1 << 62).read(value))
    if not 64 << 20 <= size <= 1 << 50:
        raise ValueError
    return size


def _mode(value: Any) -> int:
    text = _text(value)
    if not re.fullmatch("0?[0-7]{3}", text, re.ASCII) or int(text, 8) & 0o111 or int(text, 8) & 0o600 != 0o600:
        raise ValueError
    return int(text, 8)


def _number_of(look: Callable[[str], int]) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < (1 << 32) - 1:
            return value
        return look(_text(value))

    return read


def _retention(name: str) -> Key:
    def read(value: Any) -> str:
        text = ("yes" if value else "no") if isinstance(value, bool) else _text(value)
        if name == "budget" and text != "none":
            text = str(parse_size(text))
        policy.changed(policy.DEFAULT, {name: text} if name != "minimum" else {name: text, "every_write": "forever"})
        return text

    return Key(read, "a setting of `cdp retention`, as text")


_TERMS = {
    "owner": Key(_number_of(lambda name: pwd.getpwnam(name).pw_uid), "the name or number of a user"),
    "group": Key(_number_of(lambda name: grp.getgrnam(name).gr_gid), "the name or number of a group"),
    "mode": Key(_mode, "the rights to the socket as text, as '0660': its owner reads and writes, nobody executes"),
}

TABLES: dict[str, dict[str, Key]] = {
    "nbd": {
        "listen": Key(_addresses, "a list of 'unix:/PATH' or 'tcp:HOST:PORT'"),
        "insecure_tcp": Key(_yes_or_no, "true or false"),
        **_TERMS,
    },
    "control": dict(_TERMS),
    "tls": {
        "mode": Key(lambda value: Tls(_text(value)), "one of 'off', 'on', 'require'"),
        **{name: Key(_file, "the path of a file") for name in ("certificate", "key", "client_ca", "access")},
    },
    "metrics": {"listen": Key(lambda value: parse_tcp(_text(value)), "'tcp:HOST:PORT'")},
    "log": {"level": _one_of(LEVELS), "format": _one_of(FORMATS)},
    "limits": {
        "sessions": _whole(1, 1 << 16),
        "memory_bytes": Key(_memory, "a size from 64MiB on, as '128MiB'"),
        "stall_seconds": _seconds(3600),
        "stop_seconds": _seconds(3600),
        "close_seconds": _seconds(3600),
    },
    "retention": {name: _retention(name) for name in policy.settings(policy.DEFAULT)},
}


class _Lines:
    """Where keys stand in a file that tomllib read; it does not tell."""

    _TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
    _KEY = re.compile(r"\s*([A-Za-z0-9_.\-]+|\"[^\"]*\"|'[^']*')\s*=")

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.split("\n"), start=1):
            if found := self._TABLE.fullmatch(line.rstrip("\r")):
                table = _parts(found[1])
                self._found.setdefault(table, number)
            elif found := self._KEY.match(line):
                self._found.setdefault((*table, *_parts(found[1])), number)

    def of(self, *path: str) -> int:
        """The line of a key, or of what stands nearest around or below it; 0 if there is none."""
        known = self._found.get(path)
        if known is not None:
            return known
        below = [number for found, number in self._found.items() if found[: len(path)] == path]
        return min(below) if below else self.of(*path[:-1]) if len(path) > 1 else 0


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _list(names: Iterable[str]) -> str:
    return f"there are {', '.join(names)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _syntax(sentence: str, text: str) -> str:
    if sentence.endswith(" (at end of document)"):
        last = len(text.rstrip().split("\n"))
        return f":{last}: {sentence.removesuffix(' (at end of document)')}: the file ends here"
    found = re.fullmatch(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", sentence, re.DOTALL)
    return f":{found[2]}: {found[1]} (column {found[3]})" if found else f": {sentence}"

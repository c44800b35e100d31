"""Which certificate may open which volumes: rules in a TOML file, and what they come to for one client.

    [[grant]]
    to = ["cn:backup", "dns:backup.example"]     # any of these names of the certificate
    read = ["*"]                                 # volumes, by name (with * and ?) or by ID
    write = ["db-*"]

Invariants:
- What no rule gives, nobody has; rules only add. A name is compared whole, as the certificate has it: patterns are for volumes.
- `read` is the live volume and its instants, read-only; `write` besides writes to the live volume and opens scratch views.
- Pure but for `load`.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cdp import files
from cdp.errors import Invalid

RULES_BYTES_MAX = 4 << 20
"""A file of this length is no list of rules."""

KINDS = ("subject", "cn", "dns", "email", "uri", "sha256")
"""What a name in a rule may be of."""


class Level(enum.IntEnum):
    """What a client may do with a volume."""

    NONE = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Grants:
    """What one client may open: patterns of volumes."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    def level(self, *names: str) -> Level:
        """With the volume that has these names (its name, its ID)."""
        if _fits(self.write, names):
            return Level.WRITE
        return Level.READ if _fits(self.read, names) else Level.NONE


EVERYTHING = Grants(write=("*",))


@dataclass(frozen=True, slots=True)
class Rule:
    """One `[[grant]]`."""

    to: frozenset[str]
    read: tuple[str, ...]
    write: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole file."""

    rules: tuple[Rule, ...]

    def grants(self, names: Iterable[str]) -> Grants:
        """For the client whose certificate has these names."""
        have = frozenset(names)
        fitting = [rule for rule in self.rules if not rule.to.isdisjoint(have)]
        return Grants(
            tuple(pattern for rule in fitting for pattern in rule.read),
            tuple(pattern for rule in fitting for pattern in rule.write),
        )


def load(path: Path) -> Rules:
    """Invalid with what is wrong in the file, NotFound or Io where it cannot be read."""
    with files.os_errors(f"reading {path}"), path.open("rb") as file:
        text = file.read(RULES_BYTES_MAX + 1)
    if len(text) > RULES_BYTES_MAX:
        raise Invalid(f"{path} has more than {RULES_BYTES_MAX} bytes")
    try:
        return parse(text.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8") from error
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from error


def parse(text: str) -> Rules:
    """Invalid with what is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(str(error)) from error
    _only(document, {"grant"}, "the file")
    grants = document.get("grant", [])
    if not isinstance(grants, list):
        raise Invalid("grant is to be written [[grant]], once for each rule")
    return Rules(tuple(_rule(number, grant) for number, grant in enumerate(grants, start=1)))


def _rule(number: int, grant: object) -> Rule:
    where = f"rule {number}"
    if not isinstance(grant, dict):
        raise Invalid(f"{where} is no table")
    _only(grant, {"to", "read", "write"}, where)
    to = _strings(grant, "to", where)
    if not to:
        raise Invalid(f'{where} says not to whom: to = ["cn:NAME"]')
    return Rule(
        frozenset(_name(name, where) for name in to), _strings(grant, "read", where), _strings(grant, "write", where)
    )


def _name(text: str, where: str) -> str:
    kind, colon, value = text.partition(":")
    if kind not in KINDS or not colon or not value:
        kinds = ", ".join(f"{kind}:" for kind in KINDS)
        raise Invalid(f"{where}: {text[:200]!r} is no name of a certificate: it begins with one of {kinds}")
    if kind == "sha256":
        value = value.replace(":", "").lower()
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise Invalid(f"{where}: {text[:200]!r} is no SHA-256: 64 hexadecimal digits")
    return f"{kind}:{value}"


def _strings(grant: dict[str, object], key: str, where: str) -> tuple[str, ...]:
    value = grant.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Invalid(f"{where}: {key} is to be a list of strings")
    return tuple(value)


def _only(table: dict[str, object], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise Invalid(f"{where} has {unknown[0]!r}, which means nothing here")


def _fits(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)

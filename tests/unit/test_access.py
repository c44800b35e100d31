"""Rules of access: what they come to for a certificate, and what is wrong with one that means nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp.access import EVERYTHING, Grants, Level, load, parse
from cdp.errors import Invalid, NotFound

RULES = """
[[grant]]
to = ["cn:backup", "dns:backup.example"]
read = ["*"]

[[grant]]
to = ["cn:backup"]
write = ["db-*", "0123456789abcdef0123456789abcdef"]
"""


@pytest.mark.parametrize(
    ("names", "volume", "level"),
    [
        (["cn:backup"], "db-1", Level.WRITE),
        (["cn:backup"], "web", Level.READ),
        (["dns:backup.example"], "db-1", Level.READ),
        (["cn:other"], "db-1", Level.NONE),
        (["cn:backup2"], "db-1", Level.NONE),
        (["dns:backup"], "db-1", Level.NONE),
        (["subject:CN=backup"], "web", Level.NONE),
        ([], "web", Level.NONE),
    ],
)
def test_a_volume_for_a_certificate(names: list[str], volume: str, level: Level) -> None:
    assert parse(RULES).grants(names).level(volume, "f" * 32) is level


def test_a_volume_may_be_called_by_its_id() -> None:
    grants = parse(RULES).grants(["cn:backup"])
    assert grants.level("web", "0123456789abcdef0123456789abcdef") is Level.WRITE


def test_nothing_and_everything() -> None:
    assert parse("").grants(["cn:backup"]) == Grants()
    assert Grants().level("disk") is Level.NONE
    assert EVERYTHING.level("disk") is Level.WRITE


def test_a_fingerprint_may_be_written_as_openssl_prints_it() -> None:
    printed = ":".join(["AB"] * 32)
    assert parse(f'[[grant]]\nto = ["sha256:{printed}"]\nread = ["a"]').grants(["sha256:" + "ab" * 32]).read == ("a",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[grant]]\nread = ['*']", "rule 1 says not to whom"),
        ("[[grant]]\nto = ['alice']", "'alice' is no name of a certificate"),
        ("[[grant]]\nto = ['cn:']", "'cn:' is no name"),
        ("[[grant]]\nto = ['ip:127.0.0.1']", "is no name"),
        ("[[grant]]\nto = ['sha256:abc']", "is no SHA-256"),
        ("[[grant]]\nto = 'cn:alice'", "to is to be a list"),
        ("[[grant]]\nto = ['cn:alice']\nread = [1]", "read is to be a list"),
        ("[[grant]]\nto = ['cn:alice']\nwrites = ['*']", "rule 1 has 'writes'"),
        ("[grant]\nto = ['cn:alice']", r"\[\[grant\]\]"),
        ("[[grants]]", "the file has 'grants'"),
        ("to = alice", "Invalid value"),
    ],
)
def test_what_means_nothing_is_refused(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        parse(text)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    with pytest.raises(NotFound, match=r"rules\.toml"):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(Invalid, match=r"rules\.toml is not UTF-8"):
        load(path)

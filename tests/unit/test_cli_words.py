"""What the command line reads and prints, without a store: sizes, places, exit codes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp import config
from cdp.cli.output import human_bytes
from cdp.control.wire import STATUS, from_answer, to_answer
from cdp.errors import KINDS, CdpError, Invalid
from cdp.facts import InstantFacts, VolumeFacts, document
from cdp.sizes import parse_size
from tests.rig.cdp import Cdp, environment


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1K", 1024),
        ("512MiB", 512 << 20),
        ("10GiB", 10 << 30),
        ("10G", 10 << 30),
        ("10GB", 10**10),
        ("1T", 1 << 40),
        ("2PiB", 2 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1.5G", "-1", "+1", "1 G", "1g", "1Gib", "1Z", "0x10", "1e3", "٣", "9" * 21])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid):
        parse_size(text)


@given(st.text())
def test_sizes_are_refused_in_words(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except Invalid:
        return


def test_bytes_for_people() -> None:
    counts = (0, 1, 1023, 1024, 1536, 10 << 30, (10 << 30) + 1)
    assert [human_bytes(n) for n in counts] == ["0 B", "1 B", "1023 B", "1 KiB", "1.5 KiB", "10 GiB", "10.0 GiB"]


def test_stamps_become_times_beside_them() -> None:
    facts = VolumeFacts("0" * 32, "ok", "disk", created_stamp=1)
    told = document([facts, InstantFacts(3, 2_000_000_005, 0)])
    assert told[0]["created_stamp"] == 1
    assert told[0]["created_time"] == "1970-01-01T00:00:00.000000001Z"
    assert (told[0]["deleted_stamp"], told[0]["deleted_time"]) == (None, None)
    assert told[1]["time"] == "1970-01-01T00:00:02.000000005Z"
    assert json.loads(json.dumps(told)) == told


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDP_STORE", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.store_path(None) == Path("/var/lib/cdp")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert config.store_path(None) == Path("/data/cdp")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert config.store_path(None) == Path("/home/me/.local/share/cdp")
    monkeypatch.setenv("CDP_STORE", "/env")
    assert config.store_path(None) == Path("/env")
    assert config.store_path(Path("/chosen")) == Path("/chosen")
    assert config.store_path(Path("here")).is_absolute()


def test_every_kind_of_error_survives_the_control_socket() -> None:
    assert set(STATUS) == set(KINDS)
    assert len(set(STATUS.values())) == len(KINDS)
    for kind in KINDS:
        status, body = to_answer(kind("why"))
        again = from_answer(status, json.loads(json.dumps(body)))
        assert (type(again), str(again)) == (kind, "why")
    assert type(from_answer(500, ["?"])) is CdpError
    assert type(from_answer(500, {"kind": "SystemExit", "message": "x"})) is CdpError


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("list",), 3, "there is no store"),
        (("show", "disk"), 3, "there is no store"),
        (("create", "disk"), 2, "needs --size"),
        (("create", "disk", "--size", "10 GB"), 2, "is no size"),
        (("create", "disk", "--size", "100"), 2, "multiple of 512"),
        (("create", "a/b", "--size", "1M"), 2, "cannot name a volume"),
        (("create", "disk", "--size", "1M", "--block-size", "1024"), 2, "512 or 4096"),
        (("bookmark", "disk"), 2, "give a NAME"),
        (("bookmark", "disk", "b", "--at", "yesterday"), 2, "names no instant"),
        (("log", "disk", "--since", "-5x"), 2, "names no instant"),
        (("restore", "disk", "--at", "-5x", "--to", "f"), 2, "names no instant"),
        (("serve", "--listen", "http:x"), 2, "no address"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_a_refusal_is_one_sentence_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = Cdp(tmp_path / "store").run(arguments[0], *arguments[1:], exit_code=code)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "store").exists()


def test_starting_loads_nothing_heavy() -> None:
    code = (
        "import sys, cdp.cli.main; "
        "heavy = {'trio', 'fastapi', 'pydantic', 'httpx', 'rich.console', 'cdp._native', 'nbd'} & set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_native() -> None:
    code = "import sys, cdp, cdp.when, cdp.catalog, cdp.exports, cdp.store; sys.exit('cdp._native' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment()).returncode == 0

"""The configuration file: what can be written, what is refused, and where the fault is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp import config, configuration
from cdp.configuration import Configuration, Limits, parse
from cdp.errors import Invalid, NotFound
from cdp.sockets import SocketTerms, TcpAddress, UnixAddress
from cdp.store import LocalStore
from cdp.tls import Tls, TlsSettings
from tests.rig.cdp import Cdp
from tests.rig.certificates import Authority

FULL = b"""
[nbd]
listen = ["unix:/run/cdp/nbd.sock", "tcp:127.0.0.1:10809"]
insecure_tcp = false
owner = 0
group = "root"
mode = "0660"

[control]
mode = "600"

[metrics]
listen = "tcp:[::1]:9423"

[log]
level = "info"
format = "json"

[limits]
sessions = 16
memory_bytes = "64MiB"
stall_seconds = 1.5
stop_seconds = 10

[retention]
every_write = "2d"
budget = "1TiB"
thin = true
"""


def test_everything_that_can_be_written() -> None:
    assert parse(FULL) == Configuration(
        listen=(UnixAddress(Path("/run/cdp/nbd.sock")), TcpAddress("127.0.0.1", 10809)),
        insecure_tcp=False,
        nbd_socket=SocketTerms(0, 0, 0o660),
        control_socket=SocketTerms(mode=0o600),
        metrics=TcpAddress("::1", 9423),
        log_level="info",
        log_format="json",
        limits=Limits(16, 64 << 20, 1.5, 10.0),
        retention={"every_write": "2d", "budget": str(1 << 40), "thin": "yes"},
    )


def test_an_empty_file_is_the_defaults() -> None:
    assert parse(b"# nothing\n") == Configuration()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[nbd]\nlisten = [\n\n", 2, "the file ends here"),
        ("\n\n[nbd\n", 3, "column"),
        ("a = 1\na = 2\n", 2, "overwrite"),
        ("\n[ndb]\nmode = '0600'", 2, "there is no table or key 'ndb': there are nbd, control,"),
        ("nbd = 3", 1, "write [nbd]"),
        ("[nbd]\n\nlissen = []", 3, "[nbd] has no key 'lissen': there are listen, insecure_tcp"),
        ("nbd.lissen = 1", 1, "has no key 'lissen'"),
        ("nbd = { lissen = 1 }", 1, "has no key 'lissen'"),
        ("[nbd]\nlisten = 'tcp:127.0.0.1:1'", 2, "a list of 'unix:/PATH' or 'tcp:HOST:PORT'"),
        ("[nbd]\nlisten = []", 2, "a list of"),
        ("[nbd]\nlisten = ['udp:x:1']", 2, "'udp:x:1' is no address"),
        ("[nbd]\nlisten = ['unix:nbd.sock']", 2, "absolute path"),
        ("[nbd]\nlisten = ['tcp:0.0.0.0:10809']", 2, "can be reached by other machines"),
        ("[metrics]\nlisten = 'tcp:0.0.0.0:1'", 2, "can be reached by other machines"),
        ("[metrics]\nlisten = 'unix:/x'", 2, "no TCP address"),
        ("[nbd]\ninsecure_tcp = 'yes'", 2, "true or false"),
        ("[nbd]\nmode = 0o660", 2, "as text"),
        ("[nbd]\nmode = '0777'", 2, "nobody executes"),
        ("[nbd]\nmode = '0060'", 2, "its owner reads and writes"),
        ("[control]\nowner = 'nobody-of-this-name'", 2, "the name or number of a user"),
        ("[control]\ngroup = -1", 2, "the name or number of a group"),
        ("[log]\nlevel = 'loud'", 2, "one of 'debug', 'info', 'warning', 'error'"),
        ("[log]\nformat = ['json']", 2, "one of 'text', 'json'"),
        ("[limits]\nsessions = 0", 2, "a whole number from 1 to 65536"),
        ("[limits]\nsessions = true", 2, "a whole number"),
        ("[limits]\nmemory_bytes = '1MiB'", 2, "a size from 64MiB on"),
        ("[limits]\nstop_seconds = nan", 2, "more than 0"),
        ("[retention]\nminimum = 'forever'", 2, "a minimum cannot be forever"),
        ("[retention]\nbudget = 5", 2, "as text"),
        ("[retention]\nx = '1'", 2, "has no key 'x'"),
        ("[retention]\nminimum = '2y'\ndays = '0'", 1, "cannot be kept"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(text.encode())
    (sentence,) = str(refused.value).splitlines()
    assert sentence.startswith(f":{line}: ")
    assert says in sentence


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(Invalid) as refused:
        parse(b"[log]\nlevel = 1\nform = 'json'\n[what]\n[nbd]\nmode = 1\n")
    assert [fault.split(":")[1] for fault in str(refused.value).splitlines()] == ["2", "3", "4", "6"]


def _refusal(data: bytes) -> str | None:
    try:
        parse(data)
    except Invalid as error:
        return str(error)
    return None


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_read_or_refused_in_words(data: bytes) -> None:
    refused = _refusal(data)
    assert refused is None or refused


@given(
    st.sampled_from([(table, key) for table, keys in configuration.TABLES.items() for key in keys]),
    st.one_of(
        st.sampled_from(["1e999", "[[1]]", "{a = 1}", "''", "-0.0", "1979-05-27", "99999999999999999999", '"\\u0000"']),
        st.integers().map(str),
    ),
)
def test_any_value_is_read_or_refused_in_words(place: tuple[str, str], value: str) -> None:
    refused = _refusal(f"[{place[0]}]\n{place[1]} = {value}\n".encode())
    assert refused is None or refused.startswith((":1: ", ":2: "))


def test_which_file_counts(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = store / "system.toml"
    monkeypatch.setattr(configuration, "SYSTEM_FILE", system)
    assert configuration.find(store) is None
    system.write_text("")
    monkeypatch.setattr(config, "ROOT_STORE", store)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert configuration.find(store) == system
    assert configuration.find(store / "other") is None, "the system's file is for the system's store"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert configuration.find(store) is None
    (store / "cdp.toml").write_text("")
    assert configuration.find(store) == store / "cdp.toml"
    assert configuration.find(store, system) == system
    with pytest.raises(NotFound, match="missing"):
        configuration.for_store(store, store / "missing")


def test_new_volumes_get_the_configured_retention(store: Path) -> None:
    (store / "cdp.toml").write_text("[retention]\nevery_write = '3d'\nbudget = '64MiB'\n")
    local = LocalStore(store)
    local.create("small", 1 << 20, 4096, None)
    kept = local.retention("small").policy
    assert (kept.every_write_seconds, kept.budget_bytes) == (3 * 86400, 64 << 20)
    assert kept.set_stamp is not None
    with pytest.raises(Invalid, match="budget"):
        local.create("large", 1 << 30, 4096, None)
    assert [facts.name for facts in local.list()] == ["small"], "what cannot be kept is not made"


def test_the_command_names_file_line_and_key(cdp: Cdp, store: Path) -> None:
    assert "defaults" in cdp.run("config", "check").stdout
    file = store / "cdp.toml"
    file.write_text("[log]\nlevel = 'info'\n")
    assert cdp.run("config", "check").stdout == f"{file} is good\n"
    file.write_text("[log]\nlevel = 'loud'\ncolour = 'red'\n")
    told = cdp.run("config", "check", exit_code=2).stderr.splitlines()
    assert told[0].startswith(f"cdp: {file}:2: [log] level cannot be 'loud'")
    assert told[1].startswith(f"{file}:3: [log] has no key 'colour'")
    assert str(file) in cdp.run("serve", exit_code=2).stderr


def test_tls() -> None:
    files = "certificate = '/tls/cert.pem'\nkey = '/tls/key.pem'\n"
    made = parse(
        f"[tls]\nmode = 'require'\nclient_ca = '/tls/ca.pem'\n{files}\n[nbd]\nlisten = ['tcp:0.0.0.0:10809']".encode()
    )
    assert made.tls == TlsSettings(Tls.REQUIRE, Path("/tls/cert.pem"), Path("/tls/key.pem"), Path("/tls/ca.pem"))
    assert made.tls.with_options("on", None, Path("other.pem"), None, None).key == Path("other.pem")
    assert made.tls.with_options("off", None, None, None, None) == TlsSettings()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mode = 'on'", ":1: [tls]: --tls on needs --tls-cert and --tls-key"),
        ("key = '/key.pem'", ":1: [tls]: there are files for TLS, but it is off"),
        (
            "mode = 'on'\ncertificate = '/c'\nkey = '/k'\naccess = '/a'",
            "without certificates nobody knows who a client is",
        ),
        ("mode = 'maybe'", "[tls] mode cannot be 'maybe': one of 'off', 'on', 'require'"),
        ("certificate = 'cert.pem'", "'cert.pem' has to be an absolute path"),
        (
            "mode = 'on'\ncertificate = '/c'\nkey = '/k'\nclient_ca = '/a'\n[nbd]\nlisten = ['tcp:0.0.0.0:1']",
            "nothing keeps them out",
        ),
        (
            "mode = 'require'\ncertificate = '/c'\nkey = '/k'\n[nbd]\nlisten = ['tcp:0.0.0.0:1']",
            "nothing keeps them out",
        ),
    ],
)
def test_tls_that_does_not_go_together(text: str, says: str) -> None:
    with pytest.raises(Invalid, match=re.escape(says)):
        parse(f"[tls]\n{text}".encode())


def test_a_check_reads_the_files_for_tls(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "authority").server()
    rules, file = tmp_path / "access.toml", tmp_path / "cdp.toml"
    rules.write_text("[[grant]]\nto = ['cn:alice']\nread = ['*']\n")
    file.write_text(
        f"[tls]\nmode = 'require'\ncertificate = '{certificate}'\nkey = '{key}'\nclient_ca = '{certificate}'\naccess = '{rules}'\n"
    )
    cdp = Cdp(tmp_path / "store")
    assert "is good" in cdp.run("config", "check", file).stdout
    rules.write_text("[[grant]]\nto = ['alice']\n")
    assert (
        "access.toml: rule 1: 'alice' is no name of a certificate"
        in cdp.run("config", "check", file, exit_code=2).stderr
    )
    rules.write_text("")
    key.write_bytes(certificate.read_bytes())
    assert "the key" in cdp.run("config", "check", file, exit_code=2).stderr

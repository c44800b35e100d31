"""What is shipped besides the program speaks of things that there are: metrics in alarms, keys in the example of a configuration."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from cdp import configuration
from cdp.metrics.families import families
from cdp.metrics.figures import Figures
from tests.rig.cdp import ROOT
from tests.rig.process import run

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = (ROOT / "packaging" / "prometheus" / "cdp-alerts.yml").read_text()


def _metrics() -> set[str]:
    totals = {"live": 0, "sessions": 0, "memory_bytes": 0}
    told = families(Figures(totals, 0, [], 0, 1, [1]))
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count", "")}
    return {family.name + suffix for family in told for suffix in suffixes.get(family.type, ("",))}


def test_alarms_are_about_metrics_that_there_are_and_are_explained() -> None:
    rules = yaml.safe_load(ALERTS)["groups"][0]["rules"]
    for rule in rules:
        named = set(re.findall(r"cdp_[a-z_]+", rule["expr"]))
        assert named <= _metrics(), rule["alert"]
        assert f"| `{rule['alert']}` |" in OPERATIONS
    assert len(rules) == len(re.findall(r"^\| `Cdp\w+` \|", OPERATIONS, re.MULTILINE))


def test_documented_metrics_are_those_that_there_are() -> None:
    section = OPERATIONS[OPERATIONS.index("\n## Monitoring") : OPERATIONS.index("\n## Retention and space")]
    assert set(re.findall(r"`(cdp_[a-z_]+)`", section)) <= _metrics()


def test_the_example_of_a_configuration_can_be_read() -> None:
    found = re.search(r"```toml\n(\[nbd\].*?)```", OPERATIONS, re.DOTALL)
    assert found
    # Its certificates are not here.
    tables = [part for part in re.split(r"^(?=\[)", found[1], flags=re.MULTILINE) if not part.startswith("[tls]")]
    read = configuration.parse("".join(tables).encode())
    assert read.limits == configuration.Limits()
    named = {
        table
        for part in re.split(r"^(?=\[)", found[1], flags=re.MULTILINE)
        for table in re.findall(r"^\[(\w+)\]", part)
    }
    assert named == configuration.TABLES.keys()


@pytest.mark.parametrize("table", [table for table in configuration.TABLES if table != "tls"])
def test_every_key_is_in_the_example(table: str) -> None:
    found = re.search(rf"^\[{table}\].*?(?=^\[|^```)", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert found
    keys = set(re.findall(r"^(\w+) =", found[0], re.MULTILINE))
    wanted = configuration.TABLES[table].keys()
    # Those of a policy are the command line's, which is explained elsewhere.
    assert keys <= wanted if table == "retention" else keys == wanted


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
@pytest.mark.parametrize(("attaching", "exposure"), [(False, 30), (True, 50)])
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path, attaching: bool, exposure: int) -> None:
    """`exposure`: ten times what `systemd-analyze security` may give at most."""
    unit = tmp_path / "cdp.service"
    text = (ROOT / "packaging/systemd/cdp.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/cdp", sys.executable))
    if attaching:
        shutil.copytree(ROOT / "packaging/systemd/cdp.service.d", tmp_path / "cdp.service.d")
    assert run("systemd-analyze", "verify", "--man=no", unit).stderr == ""
    run("systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", "--no-pager", unit)

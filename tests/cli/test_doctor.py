"""The command `doctor`: words and JSON, and an exit code that a script can act on."""

import json

import pytest

from cryoloom.cli.main import run_command
from cryoloom.compute import doctor
from cryoloom.compute.doctor import Finding


@pytest.fixture
def findings(monkeypatch):
    found = [Finding("memory", True, "8.0 GB free"), Finding("disk", False, "0.1 GB free", "Free some space there.")]
    monkeypatch.setattr(doctor, "examine", lambda folder: found)
    return found


def test_a_problem_is_shown_with_its_remedy_and_ends_with_code_1(findings, capsys):
    assert run_command(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok") and "memory" in lines[0]
    assert lines[1].startswith("PROBLEM disk") and lines[2].strip() == "Free some space there."


def test_findings_are_available_as_json(findings, capsys):
    run_command(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["ok"] for row in rows] == [True, False] and rows[1]["remedy"] == findings[1].remedy


def test_a_machine_without_problems_ends_with_code_0(findings, capsys):
    findings.pop()
    assert run_command(["doctor"]) == 0

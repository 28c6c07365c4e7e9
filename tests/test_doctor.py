"""The doctor: what it finds, what it misses, and that it says what to do."""

import importlib.metadata
import tomllib

import pytest

from reidlab import cli, doctor
from reidlab.config import CLONE


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder of programs that is all of PATH; call it to write one that prints something and ends with a status."""

    def write(name, says, status=0):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
        program.chmod(0o755)
        return program

    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    return write


def found():
    return {check.name: check.found for check in doctor.checks()}


def test_tools_are_shown_with_their_version_or_their_place(tools):
    tools("stedgeai", "ST Edge AI Core v4.0")
    place = tools("trtexec", "unknown option", status=1)
    assert found()["stedgeai"] == "ST Edge AI Core v4.0" and found()["trtexec"] == str(place)
    assert found()["vela"] is None


def test_a_missing_package_fails_with_advice(monkeypatch, capsys):
    lookup = importlib.metadata.version

    def version(name):
        if name == "torchmetrics":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "onnx" else lookup(name)

    monkeypatch.setattr(doctor, "version", version)
    assert cli.main(["doctor"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("✗ packages") and "make install" in line for line in lines)
    assert any(line.startswith("– packages [export]") and "pip install -e '.[export]'" in line for line in lines)
    assert lines[-1] == "every stage needs: packages"


def test_every_extra_is_looked_for():
    extras = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*doctor.EXTRAS} == {*extras} - {"all"}


def test_a_full_disk_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor, "DISK_WANTED", 2**80)
    assert found()["disk"] is None


def test_the_bare_command_lists_every_command_with_an_example(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(command.example in text for command in cli.COMMANDS.values()) and "reidlab doctor" in text


def test_without_a_clone_the_advice_is_for_the_installed_package(monkeypatch):
    monkeypatch.setattr(doctor, "CLONE", None)
    advice = {check.name: check.advice for check in doctor.checks()}
    assert advice["packages"] == "pip install reidlab"
    assert advice["packages [export]"] == "pip install 'reidlab[export]'"

# SPDX-License-Identifier: MIT
"""Shell completion as the shells ask for it, and help with examples for every command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import vqcodec
from vqcodec.cli import main as cli


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `vqcodec` is found, and a file photo.vqc in the current folder."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/vqcodec"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vqcodec "$@"\n')
    script.chmod(0o755)
    (tmp_path / "photo.vqc").touch()
    root = str(Path(vqcodec.__file__).parents[1])
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": root, "HOME": str(tmp_path)}


def shell(name: str, script: str, environment: dict[str, str], folder: Path) -> list[str]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, "-c", script], capture_output=True, text=True, env=environment, cwd=folder, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_bash(environment: dict[str, str], tmp_path: Path) -> None:
    script = """
        eval "$(vqcodec completion bash)"
        ask() {
            COMPREPLY=(); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _vqcodec_completion vqcodec; echo "${COMPREPLY[@]}"
        }
        ask vqcodec com; ask vqcodec compress --qual; complete -p vqcodec
    """
    commands, options, registered, *_ = shell("bash", script, environment, tmp_path)
    assert set(commands.split()) == {"compare", "completion", "compress"}
    assert options.split() == ["--quality"]
    assert "_vqcodec_completion" in registered


def test_fish(environment: dict[str, str], tmp_path: Path) -> None:
    script = 'vqcodec completion fish | source; complete -C "vqcodec com"; echo ==; complete -C "vqcodec info pho"'
    lines = shell("fish", script, environment, tmp_path)
    assert {line.split("\t")[0] for line in lines[: lines.index("==")]} == {"compare", "completion", "compress"}
    assert "photo.vqc" in lines[lines.index("==") + 1 :]


def test_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    shell(
        "zsh", 'vqcodec completion zsh > code && zsh -n code && grep -q "compdef _vqcodec" code', environment, tmp_path
    )
    asked = {**environment, "COMP_WORDS": "vqcodec com", "COMP_CWORD": "1", "_VQCODEC_COMPLETE": "zsh_complete"}
    lines = shell("zsh", "vqcodec", asked, tmp_path)
    assert set(lines[1::3]) == {"compare", "completion", "compress"}
    assert set(lines[0:-1:3]) == {"plain"}


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err


def test_the_list_of_commands_is_not_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    found = capsys.readouterr().out.split("Commands:\n")[1].splitlines()
    assert len(found) == len(cli.COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in found)


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = cli.commands.list_commands(click.Context(cli.commands))
    assert {"compress", "decompress", "info", "compare", "tokens", "completion", "demo", "archive"} <= set(names)
    for name in names:
        if name == "train":
            pytest.importorskip("torch")
        if name == "train":  # as `main` says, it has a parser of its own
            with pytest.raises(SystemExit, match=r"^0$"):
                cli.main([name, "--help"])
        else:
            assert cli.main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"\n  vqcodec {name} " in text or f"\n  vqcodec {name}\n" in text, name

"""Completion in the shells: the scripts are ones, and the words that they are given are right."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import PROGRAM, farebox, run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    ran = farebox("completion", shell)
    assert ran.code == 0
    assert f"_FAREBOX_COMPLETE={shell}_complete" in ran.out


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """A real bash, with a program `farebox` in its path and the script that `farebox completion` prints."""
    bash = shutil.which("bash")
    assert bash is not None
    program = tmp_path / "farebox"
    program.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in PROGRAM) + ' "$@"\n')
    program.chmod(0o755)
    script = farebox("completion", "bash").out
    ask = (
        'COMPREPLY=(); COMP_WORDS=("${words[@]}"); COMP_CWORD=$((${#words[@]} - 1));'
        ' _farebox_completion farebox; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "-c", f"{script}\nwords=(farebox doc); {ask}\nwords=(farebox doctor --qui); {ask}"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["doctor", "--quick --quiet"], done.stderr


def test_no_command_ends_in_a_traceback_for_an_expected_error() -> None:
    for words in (["doctor"], ["maintain"], ["top", "--once"]):
        ran = run(*words, env={"FAREBOX_DSN": "postgresql://nobody@127.0.0.1:1/x?connect_timeout=2"})
        assert "Traceback" not in ran.err
        assert ran.code in (0, 3)


def test_nothing_is_coloured_without_a_terminal() -> None:
    ran = run("doctor", "--help")
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize("command", ["doctor", "maintain", "metrics", "top", "completion"])
def test_help_has_examples(command: str) -> None:
    assert f"  farebox {command}" in farebox(command, "--help").out

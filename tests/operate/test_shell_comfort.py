"""Comfort in the shell: completion in real ones, examples that parse, progress, plain words for errors."""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from farebox.cli.main import cli
from tests.cli.commands import PROGRAM, farebox, run
from tests.cli.test_terminal import run_on_terminal
from tests.operate.support import Terminal
from tests.support.database import Database
from tests.support.servers import Farm

SHELLS = ("bash", "zsh", "fish")
NOWHERE = "postgresql://nobody@127.0.0.1:1/x?connect_timeout=2"

Words = tuple[str, ...]


# -- completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    ran = farebox("completion", shell)
    assert ran.code == 0
    assert f"_FAREBOX_COMPLETE={shell}_complete" in ran.out


# How each shell starts without anybody's own settings, and what it is told first.
_START = {
    "bash": (["--norc", "--noprofile"], 'bind "set bell-style none"'),
    "zsh": (["-f"], "autoload -U compinit && compinit -u -D"),
    "fish": (["--no-config"], "set fish_greeting"),
}
_READ = {
    "bash": 'eval "$(farebox completion bash)"',
    "zsh": 'eval "$(farebox completion zsh)"',
    "fish": "farebox completion fish | source",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_commands_and_options(shell: str, farm: Farm, tmp_path: Path) -> None:
    """The shell in a terminal, told what the help says to tell it, and the key Tab."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed (Debian: {shell})")
    command = tmp_path / "farebox"
    command.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in PROGRAM) + ' "$@"\n')
    command.chmod(0o755)
    options, first = _START[shell]
    terminal = Terminal(
        farm.folder("tmux") / "socket",
        [program, *options],
        {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
    )
    try:
        terminal.press(f"{first}; {_READ[shell]}; echo rea''dy", "Enter")
        terminal.wait_for(lambda screen: "\nready" in screen)
        terminal.press("farebox doc", "Tab")
        terminal.wait_for(lambda screen: "farebox doctor" in screen)
        terminal.press("--qui", "Tab", "Tab")
        terminal.wait_for(lambda screen: "--quick" in screen and "--quiet" in screen)
    finally:
        terminal.close()


# -- help ---------------------------------------------------------------------------------------------------


def _commands(command: click.Command, path: Words = ()) -> Iterator[tuple[Words, click.Command]]:
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _commands(each, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_commands(cli))
COMPANY = "7a355cca-a7cd-5ca6-beb4-a627b35fcc8d"
# What a command wants besides, to get as far as the database.
ARGUMENTS: dict[Words, list[str]] = {
    ("route", "list"): [COMPANY],
    ("code", "list"): [COMPANY],
    ("code", "cancel"): [COMPANY, "*715*3#"],
    ("queue", "pause"): [COMPANY],
    ("queue", "resume"): [COMPANY],
    ("queue", "retry"): ["queue:1"],
    ("queue", "drop"): ["queue:1", "--yes"],
    ("company", "add"): ["--name", "x"],
    ("route", "add"): ["--name", "x"],
    ("code", "add"): ["--code", "x"],
    ("import",): ["-"],
    ("rollback",): ["--yes"],
    ("sql",): ["--pending"],
    ("top",): ["--once", "--interval", "0.2"],
    ("worker",): ["--drain"],
    ("shards", "init"): [f"one={NOWHERE}"],
    ("shards", "add"): [f"two={NOWHERE}"],
    ("shards", "reader"): [NOWHERE, f"one={NOWHERE}"],
    ("shards", "where"): [COMPANY],
    ("shards", "move"): ["17", "two"],
}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_examples_and_they_are_right(path: Words) -> None:
    """Each example names this very command, with options that it has."""
    shown = farebox(*path, "--help").out
    _, _, examples = shown.partition("Examples:\n")
    examples = re.sub(r"\\\n *", "", examples.partition("\n\nOptions")[0])
    told = re.findall(rf"\bfarebox {' '.join(path)}\b(.*)", examples)
    assert told, shown
    command = COMMANDS[path]
    for line in told:
        # To the end of the command: a pipe, a redirection, or the wide gap before a remark.
        words = shlex.split(re.split(r"[|<>)]|(?<=\S) {4,}", line)[0])
        command.make_parser(click.Context(command)).parse_args(words)


# -- errors, colours, progress ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(COMMANDS.keys() - {("up",), ("down",), ("completion",), ("shards", "demo")}), ids=" ".join
)
def test_no_command_ends_in_a_traceback_when_there_is_no_database(path: Words) -> None:
    """Each says what is wrong and what to do, in two lines, and ends with an exit code of its own."""
    ran = farebox(*path, *ARGUMENTS.get(path, []), dsn=NOWHERE, stdin="{}")
    assert "Traceback" not in ran.out + ran.err
    if path == ("top",):  # which goes on trying
        assert (ran.code, "does not answer" in ran.out) == (0, True)
        return
    assert ran.code == 3, ran
    error, hint = ran.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")


def test_nothing_is_coloured_without_a_terminal() -> None:
    ran = run("doctor", "--help")
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["verify"], b"checking every invariant"),
        (["doctor"], b"looking at: "),
        (["maintain"], b"marked payment codes"),
        (["records", "repair"], b"writing records"),
        (["unapplied", "apply"], b"applying"),
        (["migrate", "--to", "1"], b"migrating"),
        (["code", "expire"], b"expiring codes"),
    ],
    ids=["verify", "doctor", "maintain", "records", "unapplied", "migrate", "code"],
)
def test_what_may_take_long_says_so_on_a_terminal(db: Database, words: list[str], told: bytes) -> None:
    assert told in run_on_terminal(*words, dsn=db.dsn)

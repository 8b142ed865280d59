"""Runs the command line, in this process or in one of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from farebox.cli.main import cli

PROGRAM = [sys.executable, "-c", "from farebox.cli.main import main; main()"]


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        """Its one JSON document."""
        [document] = self.rows
        return document


def farebox(
    *args: object,
    dsn: str | None = None,
    stdin: str | bytes | None = None,
    env: dict[str, str | None] | None = None,
) -> Ran:
    """One command in this process; an unexpected exception shows up as exit code 70."""
    words = [str(arg) for arg in args] + (["--dsn", dsn] if dsn else [])
    environment: dict[str, str | None] = {"FAREBOX_DSN": None, **(env or {})}
    result = CliRunner().invoke(cli, words, input=stdin, env=environment, prog_name="farebox")
    return Ran(result.exit_code, result.stdout, result.stderr)


def start(
    *args: object, dsn: str | None = None, env: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """One command in a process of its own; the DSN goes by the environment, as it should."""
    environment = {name: value for name, value in os.environ.items() if name != "FAREBOX_DSN"}
    environment |= ({"FAREBOX_DSN": dsn} if dsn else {}) | (env or {})
    return subprocess.Popen(
        [*PROGRAM, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def run(*args: object, dsn: str | None = None, env: dict[str, str] | None = None) -> Ran:
    """The same, to its end."""
    process = start(*args, dsn=dsn, env=env)
    out, err = process.communicate()
    return Ran(process.returncode, out.decode(), err.decode())

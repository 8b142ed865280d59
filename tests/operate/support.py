"""Short ways to ask the doctor, to do what it prescribes, and a terminal to look at."""

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farebox.doctor import Finding, Level, Thresholds, diagnose
from tests.support.database import Database


def found(dsn: str, check: str, **thresholds: Any) -> list[Finding]:
    """What the doctor finds wrong in that check; nothing when all is well."""
    findings = list(diagnose(dsn, thresholds=Thresholds(**thresholds), only=check))
    assert findings, f"no check {check}, or it was left out"
    return [each for each in findings if each.level is not Level.OK]


def treat(db: Database, finding: Finding) -> None:
    """Do to the letter what the finding says mends it: SQL, or a command for the shell."""
    assert finding.fix is not None
    if finding.fix.split()[0] in ("psql", "sed"):
        folder = db.server.cluster.installation.bin
        environment = os.environ | {"FAREBOX_DSN": db.dsn, "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            finding.fix, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr
        return
    with db.connect(autocommit=True) as conn:
        conn.execute(finding.fix.encode(), prepare=False)


class Terminal:
    """A terminal of 110 columns with one program in it."""

    def __init__(self, socket: Path, program: list[str], env: dict[str, str]) -> None:
        tmux = shutil.which("tmux")
        if tmux is None:
            pytest.skip("tmux is not installed (Debian: tmux)")
        self._tmux = [tmux, "-S", str(socket), "-f", "/dev/null"]
        self._run(
            "new-session",
            "-d",
            "-x",
            "110",
            "-y",
            "36",
            shlex.join(program),
            env=os.environ | {"TERM": "xterm"} | env,
        )

    def _run(self, *words: str, env: dict[str, str] | None = None, check: bool = True) -> str:
        done = subprocess.run([*self._tmux, *words], env=env, capture_output=True, text=True, check=check)
        return done.stdout

    def screen(self, *, colours: bool = False) -> str:
        """What is on it, with escape sequences if you like; empty when the program has ended."""
        return self._run("capture-pane", "-p", *(["-e"] if colours else []), check=False)

    def press(self, *keys: str) -> None:
        """By the names that tmux gives them, such as Tab; anything else is typed as it stands."""
        self._run("send-keys", "--", *keys)

    def wait_for(self, condition: Callable[[str], bool]) -> str:
        """The screen as soon as it is so; fails after a minute."""
        deadline = time.monotonic() + 60
        while not condition(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.02)
        return screen

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("kill-server")

"""driver/BENCHMARKS.md names commands and options that exist, and every scenario."""

import re
import shlex
from pathlib import Path

import click
import pytest

from farebox.cli.bench import bench
from farebox.cli.main import cli

GUIDE = Path(__file__).parents[2] / "driver" / "BENCHMARKS.md"
TEXT = GUIDE.read_text(encoding="utf-8")
BLOCKS = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
LINES = re.findall(r"^farebox [^|#\n]*", BLOCKS, re.MULTILINE) + re.findall(
    r"`(farebox bench [a-z][^`]*)`", TEXT
)


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_is_understood(line: str) -> None:
    """Parsed, not run: tests/cli runs every scenario."""
    _, *words = shlex.split(line)
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_every_scenario_is_told_of() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)) == set(bench.commands)


def test_every_page_it_links_exists() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (GUIDE.parent / target).exists(), target

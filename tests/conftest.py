"""Fixtures: databases on real servers of every version, made in milliseconds, gone afterwards.

A test that takes ``db`` runs once on PostgreSQL 15 and once on 18. To run on one of them only:
``@pytest.mark.parametrize("server", ["pg18"], indirect=True)`` (``own_server`` likewise).

============== ==========================================================================================
``db``         a database with Farebox in it (cloned from a template), on a shared server
``blank_db``   an empty database on a shared server; its roles may exist already, from other databases
``tap_db``     as ``db``, with pgTAP
``server``     the shared server of one version
``farm``       makes private servers (``with farm.private("pg18") as server``) and folders for FAREBOX_HOME
``home``       a folder that FAREBOX_HOME names for the test, for ``EmbeddedServer()`` and ``farebox up``
``own_server`` a durable server of the test's own, to crash, stop or make roles in; ``own_db`` is on it
============== ==========================================================================================
"""

import functools
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlparse

from farebox.server import EmbeddedServer
from tests.support import keeper
from tests.support.database import Database
from tests.support.servers import VERSIONS, Farm, NotAvailableError, Server

# CI must not be green because something was missing.
REQUIRE_ALL = any(
    os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "FAREBOX_REQUIRE_ALL")
)

# Speed is measured in benchmarks, so no deadlines; what fails can be repeated from what is printed.
hypothesis.settings.register_profile(
    "farebox", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("farebox")

_split = functools.cache(sqlparse.split)


def _split_once(sql: str, encoding: str | None = None, strip_semicolon: bool = False) -> list[str]:
    return list(_split(sql, encoding, strip_semicolon))


# yoyo cuts the same migrations into statements hundreds of times in a run, half a second each time.
sqlparse.split = _split_once

_ROOT = pytest.StashKey[Path]()
_KEEPER = pytest.StashKey["subprocess.Popen[str]"]()
_LEFT_BEHIND = pytest.StashKey[str]()


# -- the run ------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is not None:
        config.stash[_ROOT] = Path(worker_input["farebox_root"])
        return
    root = config.stash[_ROOT] = Farm.make_root()
    # A process of its own, in a session of its own: it must outlive a Ctrl-C and a killed pytest.
    config.stash[_KEEPER] = subprocess.Popen(
        [sys.executable, keeper.__file__, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: one more than there are processors, because some tests wait most of their time."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: tells each worker where the servers are."""
    node.workerinput["farebox_root"] = str(node.config.stash[_ROOT])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the servers; fails the run when a test left one behind or, in CI, when something was left out."""
    if _KEEPER not in session.config.stash:
        return
    process = session.config.stash[_KEEPER]
    output, _ = process.communicate("done\n", timeout=120)
    if process.returncode != 0:
        session.config.stash[_LEFT_BEHIND] = (
            output or f"the keeper failed with exit code {process.returncode}"
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if REQUIRE_ALL and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """For runs that end before they begin, such as ``--help``."""
    if _KEEPER in config.stash and config.stash[_KEEPER].poll() is None:
        config.stash[_KEEPER].communicate()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_behind := config.stash.get(_LEFT_BEHIND, None):
        terminalreporter.section("left running by a test (this fails the run)", red=True)
        terminalreporter.write_line(left_behind.rstrip())
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        reasons = sorted({str(report.longrepr[2]) for report in skipped})
        counts_as = "this fails the run" if REQUIRE_ALL else "CI counts this as a failure"
        terminalreporter.section(f"LEFT OUT: {len(skipped)} tests ({counts_as})", red=True, bold=True)
        for reason in reasons:
            terminalreporter.write_line(reason.removeprefix("Skipped: "))


# -- servers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def farm(pytestconfig: pytest.Config) -> Farm:
    return Farm(pytestconfig.stash[_ROOT])


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, farm: Farm) -> Server:
    try:
        return farm.shared(request.param)
    except NotAvailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=VERSIONS)
def own_server(request: pytest.FixtureRequest, farm: Farm) -> Iterator[Server]:
    try:
        with farm.private(request.param) as server:
            yield server
    except NotAvailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def home(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = farm.folder("home")
    monkeypatch.setenv("FAREBOX_HOME", str(folder))
    monkeypatch.delenv("FAREBOX_DSN", raising=False)
    try:
        farm.installation("pg18")
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    yield folder
    EmbeddedServer(folder / "pgdata").down()


# -- databases ----------------------------------------------------------------------------------------------


def _database(server: Server, *, tap: bool | None) -> Iterator[Database]:
    name = f"test_{secrets.token_hex(6)}"
    try:
        server.create_database(name, tap=tap)
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    database = Database(server, name)
    yield database
    database.close()


@pytest.fixture
def db(server: Server) -> Iterator[Database]:
    yield from _database(server, tap=False)


@pytest.fixture
def blank_db(server: Server) -> Iterator[Database]:
    yield from _database(server, tap=None)


@pytest.fixture
def tap_db(server: Server) -> Iterator[Database]:
    yield from _database(server, tap=True)


@pytest.fixture
def own_db(own_server: Server) -> Iterator[Database]:
    yield from _database(own_server, tap=False)

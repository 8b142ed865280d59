"""docker-compose.yml: valid, pinned, without passwords; its commands run for real, outside of containers."""

import csv
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from farebox._cluster import free_port
from farebox.monitoring.samples import collect
from tests.cli.commands import PROGRAM, farebox
from tests.operate.test_rules import RULES, promtool
from tests.support.database import Database
from tests.support.servers import Farm, NotAvailableError, Server

REPO = Path(__file__).parents[2]
COMPOSE = (REPO / "docker-compose.yml").read_text()
PROFILES = ("jobs", "workers", "monitoring")
SECRETS = {
    "FAREBOX_DB_PASSWORD": "secret-of-the-database",
    "FAREBOX_WORKER_PASSWORD": "secret-of-the-worker",
    "FAREBOX_GRAFANA_PASSWORD": "secret-of-grafana",
}


def compose(*words: str, secrets: dict[str, str]) -> str:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    result = subprocess.run(
        [program, "-f", REPO / "docker-compose.yml", *words],
        env=clean | secrets,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def service(name: str) -> str:
    """The lines of one service."""
    services = COMPOSE.partition("\nservices:\n")[2]
    lines = re.findall(rf"^  {name}:\n(.*?)(?=^  \w|^\w|^  #)", services, re.MULTILINE | re.DOTALL)[0]
    return str(lines)


def script_of(name: str) -> str:
    """The shell script that a service runs."""
    [script] = re.findall(r"^      - \|\n((?:        .*\n|\n)*)", service(name), re.MULTILINE)
    return textwrap.dedent(script).replace("$$", "$")


def words_of(name: str, key: str) -> list[str]:
    """A list on one line: the command of a service, or its health check without CMD."""
    [listed] = re.findall(rf"^ +{key}: \[(.*)\]$", service(name), re.MULTILINE)
    words = next(csv.reader([listed], skipinitialspace=True))
    return words[1:] if key == "test" else words


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_is_valid(profile: str) -> None:
    config = compose("--profile", profile, "config", secrets=SECRETS)
    published = re.findall(r"^ +- (\S+:\d+:\d+\S*)$|published: (.*)", config, re.MULTILINE)
    assert published
    # Reachable from this machine only.
    assert all(first.startswith("127.0.0.1:") for first, _ in published), published


def test_images_of_others_are_pinned() -> None:
    images = re.findall(r"^    image: (\S+)$", COMPOSE, re.MULTILINE)
    for image in images:
        assert image == "farebox/farebox" or re.search(r":v?\d+\.\d+", image), image


def test_no_password_is_in_the_file() -> None:
    text = COMPOSE
    values = re.findall(r"^ +\w*PASSWORD\w*: (\S.*)$", text, re.MULTILINE)
    assert values
    assert all(re.fullmatch(r"\$\{FAREBOX_\w+:(\?[^}]*|-)\}", value) for value in values), values


def test_the_job_that_makes_the_login(own_db: Database) -> None:
    """Twice, as it runs at each start; the login then reads every metric, and no table."""
    server = own_db.server
    environment = {
        "PATH": f"{server.cluster.installation.bin}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
        "PGPASSWORD": server.password,
        "PGDATABASE": own_db.name,
    }
    command = ["bash", "-euc", script_of("logins")]
    refused = subprocess.run(
        command, env=environment | {"WORKER_PASSWORD": ""}, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stderr) == (1, "set FAREBOX_WORKER_PASSWORD\n")
    for password in ("first", "it's the second"):
        done = subprocess.run(
            command,
            env=environment | {"WORKER_PASSWORD": password},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    dsn = server.dsn(own_db.name, "farebox_worker_login", "it's the second")
    families = {family.name: family for family in collect(dsn)}
    assert {sample.value for sample in families["farebox_group_up"].samples} == {1}
    with own_db.connect(dsn=dsn) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select * from farebox.tickets")


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    config = (REPO / ".docker/prometheus.yml").read_text()
    file = tmp_path / "prometheus.yml"
    file.write_text(config.replace("/etc/prometheus/rules.yml", str(RULES)))
    checked = promtool("check", "config", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = re.findall(r"^      - (\./\S+?):", COMPOSE, re.MULTILINE)
    assert len(mounted) >= 7
    assert [path for path in mounted if not (REPO / path).exists()] == []


# -- the services, outside of containers --------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose_server(farm: Farm) -> Iterator[Server]:
    """The service `db`: its settings, and an empty database farebox."""
    settings: dict[str, str | int] = dict(re.findall(r"-c\n *- (\w+)=(\S+)", service("db")))
    settings["shared_buffers"] = "128MB"
    settings["wal_compression"] = "off"  # the embedded server is built without lz4
    try:
        with farm.private("pg18", **settings) as server:
            server.create_database("farebox", tap=None)
            yield server
    except NotAvailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def environment(compose_server: Server) -> dict[str, str]:
    """What every service finds: the host `db` is the server, whatever its port."""
    return {
        "PATH": f"{compose_server.cluster.installation.bin}:{os.environ['PATH']}",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": str(compose_server.port),
        "PGPASSWORD": compose_server.password,
    }


def settings_of(name: str) -> dict[str, str]:
    """What is set for a service, passwords left out."""
    pairs = re.findall(r"^      (\w+): (.*)$", service(name), re.MULTILINE)
    return {key: value for key, value in pairs if key.startswith(("PG", "FAREBOX")) and "$" not in value}


@contextmanager
def running(command: list[str], env: Mapping[str, str]) -> Generator[None]:
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, "it ended by itself"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_healthy(check: list[str], env: Mapping[str, str]) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(check, env=env, capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < deadline, check
        time.sleep(0.05)


def test_the_services_do_what_the_file_says(
    compose_server: Server, environment: dict[str, str], farm: Farm, tmp_path: Path
) -> None:
    """Jobs, workers and exporter in their order, as they are written, with their own health checks."""
    wait_until_healthy(words_of("db", "test"), environment)

    migrate = [*PROGRAM, *words_of("migrate", "command")]
    subprocess.run(migrate, env=environment | settings_of("migrate"), capture_output=True, check=True)
    assert farebox("status", "--check", dsn=compose_server.dsn("farebox")).code == 0

    logins = ["bash", "-euc", script_of("logins")]
    secrets = {"WORKER_PASSWORD": SECRETS["FAREBOX_WORKER_PASSWORD"]}
    subprocess.run(logins, env=environment | settings_of("logins") | secrets, capture_output=True, check=True)

    login = environment | settings_of("worker") | {"PGPASSWORD": SECRETS["FAREBOX_WORKER_PASSWORD"]}
    assert login["FAREBOX_DSN"] == "postgresql://farebox_worker_login@db/farebox"
    ports = {written: str(free_port()) for written in ("9187", "9188", "9189")}

    def here(words: list[str]) -> list[str]:
        """With ports that are free here, and this Python."""
        moved = [re.sub(r"\b91\d\d\b", lambda port: ports[port[0]], word) for word in words]
        return [sys.executable if word == "python" else word for word in moved]

    well = tmp_path / "well"
    maintain = ["sh", "-c", script_of("maintain").replace("/tmp/well", str(well))]
    # The loop calls the command by its name, and sleeps for a minute.
    (tmp_path / "farebox").write_text(f"#!{sys.executable}\nfrom farebox.cli.main import main\nmain()\n")
    (tmp_path / "farebox").chmod(0o755)
    (tmp_path / "sleep").write_text("#!/bin/sh\nexec tail -f /dev/null --pid=$PPID\n")
    (tmp_path / "sleep").chmod(0o755)
    with ExitStack() as stack:
        for name in ("worker", "metrics"):
            stack.enter_context(running([*PROGRAM, *here(words_of(name, "command"))], login))
        path = {"PATH": f"{tmp_path}:{login['PATH']}"}
        stack.enter_context(running(maintain, login | path))
        for name in ("worker", "metrics"):
            wait_until_healthy(here(words_of(name, "test")), login)
        wait_until_healthy(
            [word.replace("/tmp/well", str(well)) for word in words_of("maintain", "test")], login
        )


def test_the_job_that_runs_the_tests_in_sql(
    compose_server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    """One file stands for all: CI runs the rest by the same program."""
    if shutil.which("pg_prove") is None:
        pytest.skip("pg_prove is not installed (Debian: libtap-parser-sourcehandler-pgtap-perl)")
    shutil.copy(REPO / "pgtap/comments.sql", tmp_path)
    script = script_of("pgtap").replace("/sql/db", str(REPO / "db")).replace("/sql/pgtap", str(tmp_path))
    done = subprocess.run(
        ["bash", "-euc", script],
        env=environment | settings_of("pgtap"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "All tests successful." in done.stdout


def test_grafana_does_not_start_without_a_password() -> None:
    command = ["sh", "-euc", script_of("grafana")]
    refused = subprocess.run(
        command, env={"GF_SECURITY_ADMIN_PASSWORD": ""}, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stderr) == (1, "set FAREBOX_GRAFANA_PASSWORD\n")

"""docker-compose.yml with its extras: valid, pinned, without passwords; its scripts run for real."""

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import psycopg
import pytest

from farebox.monitoring.samples import collect
from tests.operate.test_rules import RULES, promtool
from tests.support.database import Database

REPO = Path(__file__).parents[2]
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


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_is_valid(profile: str) -> None:
    config = compose("--profile", profile, "config", secrets=SECRETS)
    published = re.findall(r"^ +- (\S+:\d+:\d+\S*)$|published: (.*)", config, re.MULTILINE)
    assert published
    # Reachable from this machine only.
    assert all(first.startswith("127.0.0.1:") for first, _ in published), published


def test_images_of_others_are_pinned() -> None:
    images = re.findall(r"^    image: (\S+)$", (REPO / "docker-compose.yml").read_text(), re.MULTILINE)
    for image in images:
        assert image == "farebox/farebox" or re.search(r":v?\d+\.\d+", image), image


def test_no_password_is_in_the_file() -> None:
    text = (REPO / "docker-compose.yml").read_text()
    values = re.findall(r"^ +\w*PASSWORD\w*: (\S.*)$", text, re.MULTILINE)
    assert values
    assert all(re.fullmatch(r"\$\{FAREBOX_\w+:(\?[^}]*|-)\}", value) for value in values), values


def test_the_job_that_makes_the_login(own_db: Database) -> None:
    """Twice, as it runs at each start; the login then reads every metric, and no table."""
    text = (REPO / "docker-compose.yml").read_text()
    [script] = re.findall(r"^  logins:.*?^      - \|\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    server = own_db.server
    environment = {
        "PATH": f"{server.cluster.installation.bin}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
        "PGPASSWORD": server.password,
        "PGDATABASE": own_db.name,
    }
    command = ["bash", "-euc", textwrap.dedent(script).replace("$$", "$")]
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
    mounted = re.findall(r"^      - (\./\S+?):", (REPO / "docker-compose.yml").read_text(), re.MULTILINE)
    assert len(mounted) >= 7
    assert [path for path in mounted if not (REPO / path).exists()] == []

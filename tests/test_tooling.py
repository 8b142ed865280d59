"""What stands around the code: the wheel, docker-compose, and the test servers' own cleaning up."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from farebox.server import server_settings
from tests.support.keeper import processes_below

REPO = Path(__file__).parents[1]
COMPOSE = REPO / "docker-compose.yml"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what the image of docker-compose.yml copies, and nothing else."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for line in re.findall(r"^COPY (.+)$", (REPO / ".docker/farebox.Dockerfile").read_text(), re.MULTILINE):
        *names, target = line.split()
        for name in names:
            if (REPO / name).is_dir():
                caches = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPO / name, source / Path(target).name, ignore=caches)
            else:
                shutil.copy(REPO / name, source)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


def test_wheel_carries_all_sql_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"farebox/_sql/{path.relative_to(REPO).as_posix()}"
        for folder in ("db", "migrations")
        for path in (REPO / folder).rglob("*")
        if path.is_file()
    }
    assert expected
    assert expected - names == set()
    assert "farebox/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_installed_package_finds_its_own_sql(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import farebox._files as f, farebox.schema as s\n"
        "print(f.db_dir(), f.migrations_dir(), len(s.manifest()), sep='\\n')"
    )
    command = [sys.executable, "-c", program]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    answer = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=True).stdout
    db, migrations, files = answer.splitlines()
    assert (db, migrations) == (str(tmp_path / "farebox/_sql/db"), str(tmp_path / "farebox/_sql/migrations"))
    assert int(files) > 0


def _compose_config(**env: str) -> "subprocess.CompletedProcess[str]":
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("docker-compose is not installed")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    return subprocess.run(
        [compose, "-f", COMPOSE, "config"], env=clean | env, capture_output=True, text=True, check=False
    )


def test_compose_file_is_valid() -> None:
    result = _compose_config(FAREBOX_DB_PASSWORD="something")
    assert result.returncode == 0, result.stderr
    assert "condition: service_healthy" in result.stdout
    # Reachable from this machine only.
    assert "127.0.0.1:5432" in result.stdout


def test_compose_has_no_default_password() -> None:
    result = _compose_config()
    assert result.returncode != 0
    assert "set FAREBOX_DB_PASSWORD" in result.stderr


def test_compose_and_embedded_server_have_the_same_settings() -> None:
    settings = dict(re.findall(r"-c\n *- (\w+)=(\S+)", COMPOSE.read_text()))
    # Sized by whoever runs the container.
    settings.pop("shared_buffers")
    # The embedded server is built without it.
    assert settings.pop("wal_compression") == "lz4"
    # For those who watch; a laptop does without.
    assert settings.pop("shared_preload_libraries") == "pg_stat_statements"
    embedded = {name: str(value) for name, value in server_settings(5432, "").items()}
    assert settings
    assert settings == {name: embedded[name] for name in settings}


def test_killed_test_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Takes what a killed pytest started: its shared server, a private one, and all their files."""
    test = tmp_path / "test_that_hangs.py"
    test.write_text(
        "import time\n"
        "def test_hangs(farm):\n"
        "    farm.shared('pg18')\n"
        "    with farm.private('pg18'):\n"
        "        print('root', farm.root, flush=True)\n"
        "        time.sleep(600)\n"
    )
    words = ["-m", "pytest", "-s", "-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    run = subprocess.Popen(
        [sys.executable, *words, str(test)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    root = None
    for line in run.stdout:
        if (found := re.search(r"root (\S+)", line)) is not None:
            root = Path(found[1])
            break
    assert root is not None
    servers = {pid for pid, words in processes_below(root).items() if "-D" in words}
    assert len(servers) == 2
    run.send_signal(signal.SIGKILL)
    run.stdout.close()
    run.wait()
    deadline = time.monotonic() + 60
    while root.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not root.exists()
    assert processes_below(root) == {}

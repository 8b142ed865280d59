"""A real PgBouncer in transaction mode, in front of a test server: Debian 12's 1.18, or a newer one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
import pytest

from farebox._cluster import free_port
from farebox._installation import service_account
from tests.support.servers import Farm

# What .ci/newer-pgbouncer leaves where the system's is too old.
_FETCHED = Path(__file__).parents[2] / ".venv" / "pgbouncer"


def _installed(*, newer: bool) -> str | None:
    """The system's PgBouncer; None where it is too old for what is asked."""
    program = shutil.which("pgbouncer", path=os.defpath + ":/usr/sbin:/usr/local/bin")
    if program is None:
        return None
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in answer.split()[1].split(".")[:2])
    return program if not newer or version >= (1, 21) else None


def _program(folder: Path, *, newer: bool) -> str:
    program = _installed(newer=newer)
    if program is None and newer and (_FETCHED / "pgbouncer").exists():
        # Where the account of the servers can reach it.
        return str(shutil.copytree(_FETCHED, folder / "newer", symlinks=True) / "pgbouncer")
    if program is None:
        pytest.skip("PgBouncer 1.21 is not here (make apt)" if newer else "PgBouncer is not here (make apt)")
    return program


@contextlib.contextmanager
def pooled(
    farm: Farm, dsn: str, *, pool_size: int = 10, newer: bool = False, **settings: str | int
) -> Generator[str]:
    """The same database and login through PgBouncer, as a URI; `newer`: 1.21, with prepared statements."""
    parts = urlsplit(dsn)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    folder = farm.folder("pgbouncer")
    program = _program(folder, newer=newer)
    users = folder / "users.txt"
    users.write_text(f'"{user}" "{password}"\n')
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host={parts.hostname} port={parts.port}\n"
        "[pgbouncer]\n"
        + "".join(
            f"{name} = {value}\n"
            for name, value in {
                "listen_addr": "127.0.0.1",
                "listen_port": port,
                "unix_socket_dir": "",
                "auth_type": "scram-sha-256",
                "auth_file": users,
                "pool_mode": "transaction",
                "default_pool_size": pool_size,
                "max_client_conn": 100,
                "logfile": folder / "pgbouncer.log",
                **settings,
            }.items()
        )
    )
    account = service_account()
    if account is not None:
        for path in (folder, users, config):
            os.chown(path, account.uid, account.gid)
    pooler = subprocess.Popen(
        [program, "-q", str(config)],
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        uri = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))
        _wait_until_it_answers(uri, pooler, folder)
        yield uri
    finally:
        pooler.terminate()
        pooler.wait(60)
        shutil.rmtree(folder)


def _wait_until_it_answers(uri: str, pooler: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(uri).close()
        except psycopg.OperationalError as error:
            if pooler.poll() is not None or time.monotonic() > deadline:
                log = folder / "pgbouncer.log"
                raise AssertionError(f"{error}\n{log.read_text() if log.exists() else ''}") from None
            time.sleep(0.005)
        else:
            return

"""A router and three shards on this machine, for a demonstration: one can be killed and comes back."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

from farebox import migrate
from farebox._cluster import SUPERUSER, Cluster, free_port
from farebox._installation import system_installation
from farebox.errors import ServerError
from farebox.shards import ShardDsn, init

NAMES: Final = ("one", "two", "three")
ROUTER: Final = "router"


@dataclass(frozen=True, slots=True)
class ShardedDemo:
    """The servers by name, and the router's DSN."""

    servers: dict[str, Cluster]
    dsn: str


@contextlib.contextmanager
def sharded_demo() -> Generator[ShardedDemo]:
    """A router and its shards, each a PostgreSQL 15 of its own; gone at the end.

    Raises ServerError where PostgreSQL 15 is missing, ConfigurationError where PL/Proxy is.
    """
    installation = system_installation(15)
    if installation is None:
        raise ServerError(
            "PostgreSQL 15 is not installed",
            hint="Debian: apt-get install postgresql-15 postgresql-15-plproxy",
        )
    folder = Path(tempfile.mkdtemp(prefix="farebox-shards-"))
    folder.chmod(0o755)
    password = secrets.token_urlsafe(16)
    servers: dict[str, Cluster] = {}
    dsns: dict[str, str] = {}
    try:
        # One is made and migrated, the others begin as copies of it: a third of the time.
        first = servers[ROUTER] = Cluster(folder / ROUTER, installation)
        first.create(password, "--no-sync")
        dsn = _start(first, password)
        with psycopg.connect(dsn.replace("/farebox", "/postgres"), autocommit=True) as conn:
            conn.execute("create database farebox template template0 encoding 'UTF8'")
        migrate.apply(dsn)
        first.stop("fast", seconds=60)
        for name in NAMES:
            servers[name] = _copy(first, folder / name)
        for name, cluster in servers.items():
            dsns[name] = _start(cluster, password)
        init(dsns[ROUTER], [ShardDsn(name, dsns[name]) for name in NAMES])
        yield ShardedDemo(servers, dsns[ROUTER])
    finally:
        for cluster in servers.values():
            cluster.stop("immediate", seconds=60)
        shutil.rmtree(folder)


def _start(cluster: Cluster, password: str) -> str:
    """Starts it; the DSN of its database."""
    port = free_port()
    cluster.configure(
        {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": cluster.socket_folder,
            "shared_buffers": "64MB",
            # Killed servers lose nothing by it, only killed machines do, and those the demonstration itself.
            "fsync": "off",
        }
    )
    cluster.start(seconds=60)
    return f"postgresql://{SUPERUSER}:{quote(password, safe='')}@127.0.0.1:{port}/farebox"


def _copy(cluster: Cluster, folder: Path) -> Cluster:
    shutil.copytree(cluster.data_dir, folder)
    account = cluster.installation.account
    if account is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.uid, account.gid)
    return Cluster(folder, cluster.installation)

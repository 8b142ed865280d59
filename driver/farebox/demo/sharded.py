"""A router and three shards on this machine, for a demonstration: one can be killed and comes back."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg

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
        for name in (ROUTER, *NAMES):
            cluster = Cluster(folder / name, installation)
            cluster.create(password, "--no-sync")
            port = free_port()
            cluster.configure(
                {
                    "port": port,
                    "listen_addresses": "127.0.0.1",
                    "unix_socket_directories": cluster.socket_folder,
                    "shared_buffers": "64MB",
                }
            )
            servers[name] = cluster
            cluster.start(seconds=60)
            dsns[name] = f"postgresql://{SUPERUSER}:{quote(password, safe='')}@127.0.0.1:{port}/farebox"
            with psycopg.connect(dsns[name].replace("/farebox", "/postgres"), autocommit=True) as conn:
                conn.execute("create database farebox template template0 encoding 'UTF8'")
        init(dsns[ROUTER], [ShardDsn(name, dsns[name]) for name in NAMES])
        yield ShardedDemo(servers, dsns[ROUTER])
    finally:
        for cluster in servers.values():
            cluster.stop("immediate", seconds=60)
        shutil.rmtree(folder)

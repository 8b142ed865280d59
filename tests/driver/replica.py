"""A real streaming replica of a test server, made with pg_basebackup."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator
from dataclasses import dataclass

import psycopg

from farebox._cluster import Cluster, free_port
from tests.support.servers import Farm, Server


@dataclass(frozen=True)
class Replica:
    """A running hot standby."""

    cluster: Cluster
    port: int
    primary: Server

    def dsn(self, dbname: str) -> str:
        """The superuser's URI for a database on it."""
        return self.primary.dsn(dbname).replace(f":{self.primary.port}/", f":{self.port}/")

    def pause(self) -> None:
        """Stop replaying: what the primary commits from now on is not seen here."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            conn.execute("select pg_wal_replay_pause()")
            while conn.execute("select pg_get_wal_replay_pause_state()").fetchone() != ("paused",):
                pass

    def resume(self) -> None:
        """Go on replaying."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            conn.execute("select pg_wal_replay_resume()")

    def catch_up(self) -> None:
        """Return when everything the primary has committed by now is seen here."""
        with self.primary.connect() as primary:
            position = primary.execute("select pg_current_wal_flush_lsn()").fetchone()
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            while conn.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", position).fetchone() != (
                True,
            ):
                pass


@contextlib.contextmanager
def replica_of(farm: Farm, primary: Server) -> Generator[Replica]:
    """A replica that streams from `primary`, gone at the end."""
    folder = farm.folder("replica")
    installation = primary.cluster.installation
    cluster = Cluster(folder / "data", installation)
    if installation.account is not None:
        shutil.chown(folder, installation.account.name)
    backup = installation.run(
        "pg_basebackup",
        f"--pgdata={cluster.data_dir}",
        f"--dbname={primary.dsn('postgres')}",
        "--write-recovery-conf",
        "--checkpoint=fast",
        "--no-sync",
    )
    assert backup.returncode == 0, backup.stderr
    settings = cluster.data_dir / "farebox.conf"
    kept = [
        line
        for line in settings.read_text().splitlines()
        if not line.startswith(("port ", "unix_socket_directories "))
    ]
    port = free_port()
    settings.write_text(
        "\n".join([*kept, f"port = {port}", f"unix_socket_directories = '{cluster.socket_folder}'"])
    )
    try:
        cluster.start(seconds=120)
        yield Replica(cluster, port, primary)
    finally:
        cluster.stop("immediate", seconds=120)
        shutil.rmtree(folder)

"""Backup and upgrade as the guide for DBAs tells it, on real servers: a point in time, a newer server."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from farebox import migrate
from farebox._cluster import Cluster, free_port
from farebox._installation import Installation
from tests.cli.commands import farebox
from tests.support.database import Database
from tests.support.servers import Farm, NotAvailableError, Server

Payments = list[dict[str, Any]]


def outcomes(dsn: str, payments: Payments) -> list[str]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        rows = conn.execute("select outcome from farebox.create_tickets(%s::json)", [json.dumps(payments)])
        return [outcome for (outcome,) in rows]


def shop(server: Server, count: int) -> tuple[Database, Payments]:
    """A migrated database, and payments that it has not seen."""
    server.create_database("shop", tap=None)
    db = Database(server, "shop")
    migrate.apply(db.dsn)
    company = db.company()
    route, code = db.route(company), db.code(company, 1000)
    return db, [db.payment(company, route, payment_code=code) for _ in range(count)]


def own(path: Path, installation: Installation) -> None:
    if installation.account is not None:
        os.chown(path, installation.account.uid, installation.account.gid)


def run(*command: object, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def restored(data: Path, server: Server, **settings: str) -> Generator[str]:
    """A server on a restored data folder; the DSN of its database `shop`."""
    cluster = Cluster(data, server.cluster.installation)
    port = free_port()
    here: dict[str, str | int] = {}
    # Limits such as max_connections must not be lower than where the log was written.
    for line in (data / "farebox.conf").read_text().splitlines()[1:]:
        name, _, value = line.partition(" = ")
        here[name] = value.removeprefix("'").removesuffix("'")
    here |= {"port": port, "unix_socket_directories": cluster.socket_folder, "archive_mode": "off"}
    cluster.configure(here | settings)
    try:
        cluster.start(seconds=120)
        yield server.dsn("shop").replace(f":{server.port}/", f":{port}/")
    finally:
        cluster.stop("immediate", seconds=120)


@pytest.mark.parametrize("version", ["pg15"])
def test_a_point_in_time_comes_back(farm: Farm, version: str) -> None:
    """Somebody deletes too much; the moment before is restored, and later payments are sent again."""
    folder = farm.folder("archive")
    archive, data = folder / "wal", folder / "data"
    try:
        installation = farm.installation(version)
        archive.mkdir()
        own(folder, installation)
        own(archive, installation)
        with farm.private(
            version, archive_mode="on", archive_command=f"test ! -f {archive}/%f && cp %p {archive}/%f"
        ) as server:
            db, payments = shop(server, 18)
            assert outcomes(db.dsn, payments[:10]) == ["created"] * 10
            backup = installation.run(
                "pg_basebackup",
                f"--pgdata={data}",
                f"--dbname={server.dsn('postgres')}",
                "-c",
                "fast",
                "-X",
                "stream",
            )
            assert backup.returncode == 0, backup.stderr
            assert outcomes(db.dsn, payments[10:15]) == ["created"] * 5
            moment = str(db.value("select clock_timestamp()"))
            assert outcomes(db.dsn, payments[15:]) == ["created"] * 3
            db.execute("delete from farebox.transactions")
            segment = db.value("select pg_walfile_name(pg_switch_wal())")
            db.wait_until("select last_archived_wal >= %s from pg_stat_archiver", [segment])
            (data / "recovery.signal").touch()
            with restored(
                data,
                server,
                restore_command=f"cp {archive}/%f %p",
                recovery_target_time=moment,
                recovery_target_action="promote",
            ) as dsn:
                with psycopg.connect(dsn, autocommit=True) as conn:
                    while conn.execute("select pg_is_in_recovery()").fetchone() == (True,):
                        pass
                assert farebox("status", "--check", dsn=dsn).code == 0
                assert farebox("verify", dsn=dsn).code == 0
                assert outcomes(dsn, payments) == ["duplicate"] * 15 + ["created"] * 3
                assert farebox("verify", dsn=dsn).code == 0
            db.close()
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def old_and_new(farm: Farm) -> Generator[tuple[Server, Server]]:
    try:
        with farm.private("pg15") as old, farm.private("pg18") as new:
            yield old, new
    except NotAvailableError as reason:
        pytest.skip(str(reason))


def test_a_dump_moves_to_a_newer_server(old_and_new: tuple[Server, Server], tmp_path: Path) -> None:
    """The commands of the guide, from 15 to 18, with the roles; the new server had never seen Farebox."""
    old, new = old_and_new
    db, payments = shop(old, 12)
    assert outcomes(db.dsn, payments) == ["created"] * 12
    bin_old, bin_new = old.cluster.installation.bin, new.cluster.installation.bin
    run(
        bin_old / "pg_dumpall",
        "--roles-only",
        "--no-role-passwords",
        "-d",
        old.dsn("postgres"),
        "-f",
        tmp_path / "roles.sql",
    )
    run(bin_old / "pg_dump", "-Fc", "-d", db.dsn, "-f", tmp_path / "shop.dump")
    run(bin_new / "psql", "-d", new.dsn("postgres"), "-f", tmp_path / "roles.sql")
    new.create_database("shop", tap=None)
    run(bin_new / "pg_restore", "--exit-on-error", "-d", new.dsn("shop"), tmp_path / "shop.dump")
    assert farebox("status", "--check", dsn=new.dsn("shop")).code == 0
    assert farebox("verify", dsn=new.dsn("shop")).code == 0
    assert outcomes(new.dsn("shop"), payments) == ["duplicate"] * 12
    wrong = {row["check"] for row in farebox("doctor", "--json", "--quiet", dsn=new.dsn("shop")).rows}
    assert wrong <= {"memory", "wal", "autovacuum", "extensions"}  # which are the test server's
    db.close()


def test_pg_upgrade_keeps_everything(old_and_new: tuple[Server, Server], farm: Farm) -> None:
    """From 15 to 18, by links; the notes of the migrations, the roles and the promises come along."""
    old, new = old_and_new
    db, payments = shop(old, 12)
    assert outcomes(db.dsn, payments) == ["created"] * 12
    db.disconnect()
    for server in (old, new):
        server.stop()
        # pg_upgrade has no way to be told a password.
        hba = server.cluster.data_dir / "pg_hba.conf"
        hba.write_text("local all all trust\n" + hba.read_text())
    folder, installation = farm.folder("upgrade"), new.cluster.installation
    own(folder, installation)
    account = installation.account
    upgraded = subprocess.run(
        [
            *(installation.bin / "pg_upgrade", "--link", "--username=postgres"),
            *("--old-bindir", old.cluster.installation.bin, "--old-datadir", old.cluster.data_dir),
            *("--new-bindir", installation.bin, "--new-datadir", new.cluster.data_dir),
        ],
        cwd=folder,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
        capture_output=True,
        text=True,
        check=False,
    )
    assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
    new.start()
    # The passwords came along too.
    dsn = old.dsn("shop").replace(f":{old.port}/", f":{new.port}/")
    assert farebox("status", "--check", dsn=dsn).code == 0
    assert farebox("verify", dsn=dsn).code == 0
    assert outcomes(dsn, payments) == ["duplicate"] * 12
    assert farebox("maintain", "--only", "analyze", dsn=dsn).code == 0
    wrong = {row["check"] for row in farebox("doctor", "--json", "--quiet", dsn=dsn).rows}
    assert wrong <= {"memory", "wal", "autovacuum", "extensions"}

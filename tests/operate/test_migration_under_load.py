# ruff: noqa: E501, ISC004 - SQL stays in one piece
"""A migration while tickets are sold: expand, an index built online, a function replaced; then all of it taken back."""

import json
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from farebox import Farebox, migrate
from farebox._files import db_dir, migrations_dir
from farebox.errors import MigrationError
from tests.support.database import Database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The migrations of now and three more, of the kinds that the guide tells apart."""
    root = tmp_path / "migrations"
    shutil.copytree(migrations_dir(), root)
    last = sorted(path.name for path in root.glob("*.sql"))[-1].removesuffix(".sql")
    function = (db_dir() / "functions/create_tickets.sql").read_text()
    replaced = function.replace("\ncreate function", "\ncreate or replace function")
    assert replaced != function
    new = {
        "9001.add-boarding": (
            f"-- depends: {last}\nset local lock_timeout = '1s';\nset role farebox_owner;\n"
            "alter table farebox.tickets add column boarded_at timestamptz,"
            " add constraint tickets_boarded_is_past check (boarded_at < '2100-01-01') not valid;\nreset role;\n",
            "set role farebox_owner;\nalter table farebox.tickets drop column boarded_at;\nreset role;\n",
        ),
        "9002.index-boarding": (
            "-- depends: 9001.add-boarding\n-- transactional: false\n"
            "create index concurrently idx_boarded on farebox.tickets (boarded_at) where boarded_at is not null;\n",
            "-- transactional: false\ndrop index concurrently farebox.idx_boarded;\n",
        ),
        "9003.replace-functions": (
            "-- depends: 9002.index-boarding\n"
            "alter table farebox.tickets validate constraint tickets_boarded_is_past;\n"
            + replaced.replace("begin\n", "begin\n  -- changed\n", 1),
            replaced,
        ),
    }
    for name, (up, down) in new.items():
        (root / f"{name}.sql").write_text(up)
        (root / f"{name}.rollback.sql").write_text(down)
    return root


class Load:
    """Sales that go on until they are stopped: by the driver, and by SQL without anything that tries again."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stop = threading.Event()
        self._sold = threading.Condition()
        self.created = 0
        self.failures: list[str] = []

    def wait_for(self, more: int) -> None:
        """Return when so many tickets more were sold; fail when that does not happen."""
        with self._sold:
            goal = self.created + more
            assert self._sold.wait_for(lambda: self.created >= goal or self.failures, timeout=60)
        assert self.failures == []

    def _count(self, created: int) -> None:
        with self._sold:
            self.created += created
            self._sold.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._sold:
            self.failures.append(f"{type(error).__name__}: {error}")
            self._sold.notify_all()

    def by_driver(self, company: UUID, route: UUID) -> None:
        try:
            with Farebox(self._db.dsn) as client:
                while not self._stop.is_set():
                    result = client.create_tickets([self._db.payment(company, route) for _ in range(50)])
                    assert not result.failed
                    self._count(len(result.successful))
        except Exception as error:
            self._fail(error)

    def by_sql(self, company: UUID, route: UUID, code: str) -> None:
        try:
            with psycopg.connect(self._db.dsn, autocommit=True) as conn:
                while not self._stop.is_set():
                    batch = [self._db.payment(company, route, payment_code=code) for _ in range(20)]
                    rows = conn.execute(
                        "select outcome from farebox.create_tickets(%s::json)",
                        [json.dumps(batch)],
                        prepare=True,
                    ).fetchall()
                    assert set(rows) == {("created",)}
                    self._count(len(rows))
        except Exception as error:
            self._fail(error)

    @contextmanager
    def running(self) -> Generator[None]:
        company = self._db.company()
        route = self._db.route(company)
        code = self._db.code(company, 1_000_000)
        threads = [
            threading.Thread(target=self.by_driver, args=(company, route)),
            threading.Thread(target=self.by_sql, args=(company, route, code)),
            threading.Thread(target=self.by_sql, args=(company, route, code)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


def test_nobody_notices_a_migration_and_its_rollback(blank_db: Database, folder: Path) -> None:
    migrate.apply(
        blank_db.dsn, folder=folder, target=sorted(p.name for p in migrations_dir().glob("*.sql"))[-1][:-4]
    )
    load = Load(blank_db)
    with load.running():
        load.wait_for(500)
        assert len(migrate.apply(blank_db.dsn, folder=folder)) == 3
        load.wait_for(500)
        assert len(migrate.rollback(blank_db.dsn, folder=folder, count=3)) == 3
        load.wait_for(500)
    assert load.failures == []
    assert blank_db.execute("select * from farebox.verify()") == []
    assert blank_db.value("select count(*) from farebox.tickets") == load.created


def test_a_migration_that_cannot_have_its_table_gives_up_and_sales_go_on(
    blank_db: Database, folder: Path
) -> None:
    """Somebody sits on the table in a forgotten transaction; whoever sells must not wait behind the migration."""
    migrate.apply(
        blank_db.dsn, folder=folder, target=sorted(p.name for p in migrations_dir().glob("*.sql"))[-1][:-4]
    )
    load = Load(blank_db)
    sleeper = blank_db.connect()
    sleeper.execute("select count(*) from farebox.tickets")
    with load.running():
        load.wait_for(100)
        with pytest.raises(MigrationError, match="9001"):
            migrate.apply(blank_db.dsn, folder=folder)
        load.wait_for(100)
        sleeper.rollback()
        assert len(migrate.apply(blank_db.dsn, folder=folder)) == 3
    assert load.failures == []

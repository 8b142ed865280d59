"""Other schemas of the database, other databases of the server: not touched, and not in the way."""

import pytest
from yoyo.migrations import get_migration_hash

from farebox import migrate
from farebox._migration_files import read_files
from farebox.errors import MigrationError
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]


def crowd(lab: Lab, database: str) -> None:
    """An old application: the same names in public and in a schema of its own, and yoyo tables of its own."""
    for schema in ("public", "app"):
        lab.execute(
            database,
            f"""
            create schema if not exists {schema};
            create table {schema}.companies (id int primary key, name text);
            create table {schema}.tickets (id int);
            create unique index idx_tickets_transaction_lookup on {schema}.tickets (id);
            create type {schema}.ticket_outcome as enum ('good', 'bad');
            create function {schema}.create_tickets(json) returns int language sql as 'select 1';
            create function {schema}._now() returns timestamptz
              language sql as $$ select '1999-01-01'::timestamptz $$;
            create function {schema}._uuid_v7() returns uuid language sql as $$ select null::uuid $$;
            """.encode(),
        )
    lab.execute(
        database,
        f"""
        create table public._yoyo_migration (
          migration_hash varchar(64) primary key, migration_id varchar(255), applied_at_utc timestamp);
        insert into public._yoyo_migration values ('{get_migration_hash(IDS[0])}', '{IDS[0]}', now());
        create table public._yoyo_version (version int primary key, installed_at_utc timestamp);
        insert into public._yoyo_version values (2, now());
        create table public._yoyo_log (id varchar(36) primary key, migration_hash varchar(64),
          migration_id varchar(255), operation varchar(10), username varchar(255), hostname varchar(255),
          comment varchar(255), created_at_utc timestamp);
        create table public.yoyo_lock (locked int primary key default 1, ctime timestamp, pid int not null);
        insert into public.yoyo_lock values (1, now(), 4711);
        create role farebox_reader;
        grant select on public.tickets to farebox_reader;
        """.encode(),
    )


def test_objects_of_the_same_names_elsewhere(lab: Lab) -> None:
    database = lab.database()
    crowd(lab, database)
    before = lab.catalog_and_roles(database)
    dsn = f"{lab.dsn(database)}?options=-csearch_path%3Dapp,public"
    assert migrate.apply(dsn) == IDS
    loaded = lab.catalog_of_db_folder()
    for kind, rows in lab.catalog(database).items():
        # What is new is what db/ makes; what was there is there.
        assert [row for row in rows if row not in before[kind]] == [
            row for row in loaded[kind] if row not in before[kind]
        ], kind
        assert [row for row in before[kind] if row not in rows] == [], kind
    lab.add_data(database)
    assert lab.execute(database, "select count(*) from public.tickets") == [(0,)]
    assert migrate.rollback(dsn, count=None) == IDS[::-1]
    assert lab.catalog_and_roles(database) == before
    assert lab.execute(database, "select migration_id from public._yoyo_migration") == [(IDS[0],)]


def test_somebody_elses_view_stops_the_rollback_and_stays(lab: Lab) -> None:
    """Nothing is dropped with cascade: what others built on Farebox is not Farebox's to drop."""
    database = lab.database()
    migrate.apply(lab.dsn(database))
    lab.execute(database, "create view public.report as select company_id, amount from farebox.tickets")
    before = lab.catalog(database)
    with pytest.raises(MigrationError, match="depend") as caught:
        migrate.rollback(lab.dsn(database), count=None)
    assert caught.value.sqlstate == "2BP01"
    assert "public.report" in str(caught.value.detail) or "view report" in str(caught.value.detail)
    assert lab.execute(database, "select to_regclass('public.report')::text") == [("report",)]
    migrate.apply(lab.dsn(database))
    assert lab.catalog(database) == before


def test_rolling_back_one_database_does_not_hurt_the_other(lab: Lab) -> None:
    """The roles belong to both. At every level of the other one."""
    for level in (*range(1, len(IDS)), len(IDS)):
        one, other = lab.database(), lab.database()
        migrate.apply(lab.dsn(one))
        migrate.apply(lab.dsn(other), target=IDS[level - 1])
        before = lab.catalog_and_roles(other)
        migrate.rollback(lab.dsn(one), count=None)
        assert lab.catalog_and_roles(other) == before
        assert migrate.apply(lab.dsn(other)) == IDS[level:]
        assert lab.catalog(other) == lab.catalog_of_db_folder()
        migrate.rollback(lab.dsn(other), count=None)
        assert not lab.execute("postgres", "select rolname from pg_roles where rolname like 'farebox%'")


def test_roles_with_members_survive_a_rollback(lab: Lab) -> None:
    """Else a login that a DBA made a member is without rights after the next migrate."""
    database = lab.database()
    migrate.apply(lab.dsn(database))
    login = lab.login()
    lab.execute("postgres", f"grant farebox_app to {login}".encode())
    migrate.rollback(lab.dsn(database), count=None)
    migrate.apply(lab.dsn(database))
    assert lab.execute(database, f"select pg_has_role('{login}', 'farebox_app', 'member')".encode()) == [
        (True,)
    ]

"""Migrations as one SQL script with yoyo's bookkeeping in it, for review and for managed consoles."""

from collections.abc import Sequence

from farebox._migration_files import SCHEMA, MigrationFile

_HEAD = """\
-- Farebox: {what}. One transaction: everything below happens, or nothing.
-- Run it as a login that may create schemas and roles (migrations/README.md lists the rights).
-- A duplicate key in yoyo_lock: another migration is running; in _yoyo_migration: this one is applied.
begin;

set local lock_timeout = '10s';
set local statement_timeout = 0;
set local search_path = pg_catalog, pg_temp;
"""

_BOOKKEEPING = f"""
-- yoyo's own tables, as yoyo 9 makes them, so that `farebox migrate` and `yoyo apply` go on from here.
create schema if not exists {SCHEMA};
comment on schema {SCHEMA} is 'Which Farebox migrations are applied; kept by yoyo';
create table if not exists {SCHEMA}.yoyo_lock (
  locked int default 1, ctime timestamp, pid int not null, primary key (locked)
);
create table if not exists {SCHEMA}._yoyo_migration (
  migration_hash varchar(64), migration_id varchar(255), applied_at_utc timestamp,
  primary key (migration_hash)
);
create table if not exists {SCHEMA}._yoyo_log (
  id varchar(36), migration_hash varchar(64), migration_id varchar(255), operation varchar(10),
  username varchar(255), hostname varchar(255), comment varchar(255), created_at_utc timestamp,
  primary key (id)
);
create table if not exists {SCHEMA}._yoyo_version (
  version int not null primary key, installed_at_utc timestamp
);
insert into {SCHEMA}._yoyo_version (version, installed_at_utc)
select 2, timezone('UTC', now()) where not exists (select from {SCHEMA}._yoyo_version);
"""
_LOCK = f"""\
insert into {SCHEMA}.yoyo_lock (locked, ctime, pid)
values (1, timezone('UTC', now()), pg_backend_pid());
"""
_UNLOCK = f"delete from {SCHEMA}.yoyo_lock;\n"


def script(files: Sequence[MigrationFile], *, rollback: bool) -> str:
    """The script that applies (or rolls back) ``files`` in the order given; a comment if there are none."""
    if not files:
        return f"-- Farebox: nothing to {'roll back' if rollback else 'apply'}.\n"
    what = f"{'rollback' if rollback else 'migration'} of {', '.join(file.id for file in files)}"
    parts = [_HEAD.format(what=what)]
    if not rollback:
        parts.append(_BOOKKEEPING)
    parts.append(_LOCK)
    for file in files:
        path = file.down if rollback else file.up
        assert path is not None, file.id
        parts.append(f"-- {'=' * 100}\n-- {path.name}\n")
        parts.append(path.read_text(encoding="utf-8").strip() + "\n")
        parts.append(_note(file, rollback=rollback))
    parts += [_UNLOCK, "commit;\n"]
    return "\n".join(parts)


def _note(file: MigrationFile, *, rollback: bool) -> str:
    from yoyo.migrations import get_migration_hash  # see farebox.migrate

    digest = get_migration_hash(file.id)
    operation = "rollback" if rollback else "apply"
    log = (
        f"insert into {SCHEMA}._yoyo_log\n"
        "  (id, migration_hash, migration_id, operation, username, hostname, comment, created_at_utc)\n"
        f"values (gen_random_uuid()::text, '{digest}', '{file.id}', '{operation}',\n"
        f"  session_user, 'sql script', 'sha256:{file.sha256}', timezone('UTC', clock_timestamp()));\n"
    )
    if rollback:
        return f"delete from {SCHEMA}._yoyo_migration where migration_hash = '{digest}';\n{log}"
    return (
        f"insert into {SCHEMA}._yoyo_migration (migration_hash, migration_id, applied_at_utc)\n"
        f"values ('{digest}', '{file.id}', timezone('UTC', clock_timestamp()));\n{log}"
    )

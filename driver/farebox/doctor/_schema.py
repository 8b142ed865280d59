# ruff: noqa: E501 - sentences and SQL stay in one piece
"""Checks of what migrations make: is everything there, unchanged, and open to whom it should be?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from farebox._preflight import OWNER, ROLES
from farebox.doctor._expected import Constraint, Function, Grant
from farebox.doctor._finding import Context, Found, Level, Part, check

_AS_OWNER: Final = f"begin; set local role {OWNER}; {{}} commit;"
_SHARDS_MIGRATE: Final = "farebox shards migrate   # with the router's DSN"
_SAME_ON_A_ROUTER: Final = ("blameless_errors", "create_ticket", "drain_ticket_queue")
"""Functions of a plain database that look into no table themselves."""
_ROUTER_LOGIN: Final = re.compile(r"farebox_router_[0-9a-f]{8}")


@check(
    "migrations",
    why="The driver calls functions of its own version; missing or edited migrations make them fail or differ.",
    good="all migrations are applied, none was edited",
)
def _migrations(context: Context) -> Iterator[Found]:
    if pending := [each.id for each in context.migrations if each.known and each.applied_at is None]:
        yield (
            Level.PROBLEM,
            f"pending: {', '.join(pending)}",
            "farebox migrate" if context.part is Part.ALONE else _SHARDS_MIGRATE,
        )
    if edited := [each.id for each in context.migrations if each.edited]:
        yield (
            Level.PROBLEM,
            f"edited after they were applied or released: {', '.join(edited)}",
            "pip install --force-reinstall farebox   # restores the files; changes belong into a new migration",
        )
    if newer := [each.id for each in context.migrations if not each.known]:
        yield (
            Level.WARNING,
            f"the database is newer than this Farebox: {', '.join(newer)}",
            "pip install --upgrade farebox",
        )


@check(
    "tables",
    why="What is missing here was dropped by hand; the functions that use it fail.",
    good="all tables, sequences and constraints are there and validated",
    needs_schema=True,
)
def _tables(context: Context) -> Iterator[Found]:
    there = {
        row["name"]
        for row in context.rows(
            "select relname as name from pg_class"
            " where relnamespace = to_regnamespace('farebox') and relkind in ('r', 'p')"
        )
    }
    for table in sorted(context.expected.tables - there):
        yield (
            Level.PROBLEM,
            f"the table farebox.{table} is missing",
            "restore it from a backup (migrations/README.md)",
        )
    sequences = {
        row["name"]
        for row in context.rows(
            "select relname as name from pg_class"
            " where relnamespace = to_regnamespace('farebox') and relkind = 'S'"
        )
    }
    for sequence, statement in context.expected.sequences.items():
        if sequence not in sequences:
            yield (
                Level.PROBLEM,
                f"the sequence farebox.{sequence} is missing",
                _AS_OWNER.format(f"{_flat(statement)};"),
            )
    validated = {
        (row["table"], row["name"]): row["validated"]
        for row in context.rows(
            """
            select c.relname as table, n.conname as name, n.convalidated as validated
            from pg_constraint as n join pg_class as c on c.oid = n.conrelid
            where n.connamespace = to_regnamespace('farebox')
            """
        )
    }
    for (table, name), constraint in sorted(context.expected.constraints.items()):
        if table not in there:
            continue
        if (table, name) not in validated:
            yield (
                Level.PROBLEM,
                f"the constraint {name} of farebox.{table} is missing",
                _add_constraint(constraint),
            )
        elif not validated[table, name]:
            yield (
                Level.WARNING,
                f"the constraint {name} of farebox.{table} was never validated",
                f"alter table farebox.{table} validate constraint {name};",
                (f"alter table farebox.{table} validate constraint {name}",),
            )


def _add_constraint(constraint: Constraint) -> str:
    """Where it can be, in two steps of which only the second reads the table, while it is sold from."""
    table, name = f"farebox.{constraint.table}", constraint.name
    add = f"alter table {table} add constraint {name} {constraint.definition}"
    if constraint.definition.startswith(("check", "foreign key")):
        return f"{add} not valid; alter table {table} validate constraint {name};"
    return f"{add}; -- locks the table while its index is built: stop selling first"


@check(
    "indexes",
    why="Without its index a query reads the whole table; idx_tickets_transaction_lookup is what makes a payment buy one ticket only.",
    good="all indexes are there and valid",
    needs_schema=True,
)
def _indexes(context: Context) -> Iterator[Found]:
    states = {
        row["name"]: row
        for row in context.rows(
            """
            select i.relname as name, x.indisvalid and x.indisready as valid,
              exists (select from pg_constraint as n where n.conindid = x.indexrelid) as of_constraint,
              exists (select from pg_stat_progress_create_index as p where p.index_relid = x.indexrelid) as in_work,
              x.indrelid::regclass::text as table
            from pg_index as x join pg_class as i on i.oid = x.indexrelid
            where i.relnamespace = to_regnamespace('farebox')
            """
        )
    }
    for name, index in context.expected.indexes.items():
        online = index.statement.replace(" index ", " index concurrently ", 1)
        if name not in states:
            yield (
                Level.PROBLEM,
                f"the index {name} of farebox.{index.table} is missing",
                f"{_flat(online)};",
                (online,),
            )
    for name, state in sorted(states.items()):
        if state["valid"] or state["in_work"]:
            continue
        is_ours = name in context.expected.indexes or state["of_constraint"]
        # Another one was broken off while it was built; the half-done copy that REINDEX leaves has its own name.
        statement = f"{'reindex' if is_ours else 'drop'} index concurrently farebox.{name}"
        yield (
            Level.PROBLEM,
            f"the index {name} of {state['table']} is not valid",
            f"{statement};",
            (statement,) if is_ours else (),
        )


@check(
    "triggers",
    why="Without them routes and codes with tickets can be deleted, codes do not follow their terms, and drivers' caches grow stale.",
    good="all triggers are there and enabled",
    needs_schema=True,
)
def _triggers(context: Context) -> Iterator[Found]:
    states = {
        row["name"]: row["state"]
        for row in context.rows(
            """
            select t.tgname as name, t.tgenabled::text as state
            from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
            where c.relnamespace = to_regnamespace('farebox') and not t.tgisinternal
            """
        )
    }
    for name, trigger in context.expected.triggers.items():
        if name not in states:
            yield (
                Level.PROBLEM,
                f"the trigger {name} of farebox.{trigger.table} is missing",
                _AS_OWNER.format(f"{_flat(trigger.statement)};"),
            )
        elif states[name] not in "OA":
            statement = f"alter table farebox.{trigger.table} enable trigger {name}"
            yield (
                Level.PROBLEM,
                f"the trigger {name} of farebox.{trigger.table} is disabled",
                f"{statement};",
                (statement,),
            )


@check(
    "unused indexes",
    why="Each index costs 5 to 10 % of the speed of selling; one that no query uses is not worth it.",
    good="no index of others lies idle on a large table",
    needs_schema=True,
)
def _unused_indexes(context: Context) -> Iterator[Found]:
    rows = context.rows(
        """
        select s.indexrelname as name, s.indexrelid::regclass::text as qualified, pg_relation_size(s.indexrelid) >> 20 as megabytes,
          (select to_char(d.stats_reset, 'YYYY-MM-DD') from pg_stat_database as d where d.datname = current_database()) as since
        from pg_stat_user_indexes as s
        join pg_index as x on x.indexrelid = s.indexrelid
        join pg_class as c on c.oid = s.relid
        where s.schemaname = 'farebox' and s.idx_scan = 0 and not x.indisunique and c.reltuples >= %(rows)s
        order by s.indexrelname
        """,
        {"rows": context.thresholds.unused_index_rows},
    )
    for row in rows:
        if row["name"] not in context.expected.indexes:
            yield (
                Level.WARNING,
                f"{row['name']} is none of Farebox's, takes {row['megabytes']:,} MB and was never used"
                + (f" since {row['since']}" if row["since"] else ""),
                f"drop index concurrently {row['qualified']}; -- unless a replica uses it, or a report that is rarely made",
            )


@check(
    "functions",
    why="All rules live in the functions. A body edited by hand is lost with the next migration; a lost search_path or "
    "security definer opens a door.",
    good="all functions are those of this version",
    needs_schema=True,
)
def _functions(context: Context) -> Iterator[Found]:
    states = {
        row["name"]: row
        for row in context.rows(
            """
            select p.proname as name, p.prosrc as body, p.prosecdef as is_definer,
              coalesce(p.proconfig, '{}') as settings, pg_get_userbyid(p.proowner) as owner,
              p.oid::regprocedure::text as signature
            from pg_proc as p where p.pronamespace = to_regnamespace('farebox')
            """
        )
    }
    for name, function in sorted(context.expected.functions.items()):
        state = states.get(name)
        if state is None:
            yield (
                Level.PROBLEM,
                f"the function farebox.{name} is missing",
                function.restore_command
                if function.is_of_layer
                else f'psql "$FAREBOX_DSN" -f {function.file}   # then: farebox doctor --fix, for its grants',
            )
            continue
        if context.part is Part.ROUTER and not (
            function.is_of_layer or name.startswith("_") or name in _SAME_ON_A_ROUTER
        ):
            if not _goes_to_shards(name, state["body"]):
                yield Level.PROBLEM, f"the function farebox.{name} does not ask the shards", _SHARDS_MIGRATE
        elif differs := _differences(function, state):
            yield (
                Level.PROBLEM,
                f"the function farebox.{name} differs from this version's in {', '.join(differs)}",
                function.restore_command,
            )
        if state["owner"] != OWNER:
            statement = f"alter routine {state['signature']} owner to {OWNER}"
            yield Level.PROBLEM, f"farebox.{name} belongs to {state['owner']}", f"{statement};", (statement,)


def _differences(function: Function, state: dict[str, Any]) -> list[str]:
    same = {
        "its body": state["body"] == function.body,
        "security definer": state["is_definer"] == function.is_definer,
        "its settings": {_compact(s) for s in state["settings"]} == {_compact(s) for s in function.settings},
    }
    return [what for what, is_same in same.items() if not is_same]


def _goes_to_shards(name: str, body: str) -> bool:
    """Of a router's function that is made from a list, not from a file of its own."""
    return f"farebox._at_{name}(" in body or f"farebox._change_catalog('{name}'" in body


@check(
    "roles",
    why="The groups decide who may do what; a group that logs in, or has more rights than it should, decides nothing.",
    good="the group roles are as they should be, row-level security is on",
    needs_schema=True,
)
def _roles(context: Context) -> Iterator[Found]:
    attributes = {"rolcanlogin": "nologin", "rolsuper": "nosuperuser", "rolbypassrls": "nobypassrls"}
    states = {
        row["rolname"]: row
        for row in context.rows("select * from pg_roles where rolname = any (%s)", [list(ROLES)])
    }
    for role in ROLES:
        if role not in states:
            yield Level.PROBLEM, f"the role {role} is missing", f"create role {role} nologin;"
            continue
        wrong = [cure for name, cure in attributes.items() if states[role][name]]
        if wrong:
            yield (
                Level.PROBLEM,
                f"the role {role} should be {', '.join(wrong)}",
                f"alter role {role} {' '.join(wrong)};",
            )
    rows = context.rows(
        """
        select c.relname as name, c.relrowsecurity as secured, pg_get_userbyid(c.relowner) as owner,
          array(select polname::text from pg_policy where polrelid = c.oid) as policies
        from pg_class as c where c.relnamespace = to_regnamespace('farebox') and c.relkind in ('r', 'p')
        """
    )
    for row in sorted(rows, key=lambda row: str(row["name"])):
        name = row["name"]
        if name in context.expected.secured and not row["secured"]:
            statement = f"alter table farebox.{name} enable row level security"
            yield Level.PROBLEM, f"row-level security of farebox.{name} is off", f"{statement};", (statement,)
        missing = {policy for table, policy in context.expected.policies if table == name} - set(
            row["policies"]
        )
        for policy in sorted(missing):
            yield (
                Level.PROBLEM,
                f"the policy {policy} of farebox.{name} is missing",
                f"the statement `create policy {policy}` of db/policies.sql (farebox sql prints it)",
            )
        if row["owner"] != OWNER:
            statement = f"alter table farebox.{name} owner to {OWNER}"
            yield Level.PROBLEM, f"farebox.{name} belongs to {row['owner']}", f"{statement};", (statement,)


@check(
    "grants",
    why="A missing grant makes a login fail; one too many lets it pass by the functions, and so by the rules.",
    good="everybody may do exactly what the contract says",
    needs_schema=True,
)
def _grants(context: Context) -> Iterator[Found]:
    # As oids and back, so that both sides are spelled by the server.
    wanted = {_spelled(context, grant) for grant in context.expected.grants}
    actual = {
        Grant(row["kind"], row["target"], row["column"], row["privilege"].lower(), row["role"])
        for row in context.rows(_ACTUAL_GRANTS, {"owner": OWNER})
        # What `farebox shards` gives to the router's own login.
        if not (_ROUTER_LOGIN.fullmatch(row["role"]) and row["target"].startswith("farebox._shard_"))
    }
    for grant in sorted(wanted - actual):
        statement = f"grant {grant.what} to {grant.role_in_sql};"
        # For its transaction only: a role that stays in a pooler's session is somebody else's next.
        as_owner = f"set local role {OWNER}; {statement}"
        yield Level.PROBLEM, f"{grant.role} lacks {grant.what}", _AS_OWNER.format(statement), (as_owner,)
    for grant in sorted(actual - wanted):
        yield (
            Level.PROBLEM if grant.role == "PUBLIC" else Level.WARNING,
            f"{grant.role} has {grant.what}, which Farebox does not give",
            _AS_OWNER.format(f"revoke {grant.what} from {grant.role_in_sql};"),
        )


_ACTUAL_GRANTS: Final = """
with acls as (
  select case p.prokind when 'p' then 'procedure' else 'function' end as kind, p.oid::regprocedure::text as target, '' as column,
    coalesce(p.proacl, acldefault('f', p.proowner)) as acl
  from pg_proc as p where p.pronamespace = to_regnamespace('farebox')
  union all
  select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, '', c.relacl
  from pg_class as c where c.relnamespace = to_regnamespace('farebox') and c.relkind in ('r', 'p', 'v', 'm', 'S')
  union all
  select 'table', c.oid::regclass::text, a.attname, a.attacl
  from pg_class as c join pg_attribute as a on a.attrelid = c.oid
  where c.relnamespace = to_regnamespace('farebox') and a.attacl is not null
  union all
  select 'schema', n.nspname, '', n.nspacl from pg_namespace as n where n.nspname = 'farebox'
)
select a.kind, a.target, a.column, e.privilege_type as privilege,
  case e.grantee when 0 then 'PUBLIC' else pg_get_userbyid(e.grantee)::text end as role
from acls as a cross join lateral aclexplode(a.acl) as e
where e.grantee <> (select oid from pg_roles where rolname = %(owner)s)
"""


def _spelled(context: Context, grant: Grant) -> Grant:
    if grant.kind not in ("function", "procedure"):
        return grant
    row = context.row("select to_regprocedure(%s)::text as name", [grant.target])
    return Grant(grant.kind, row["name"] or grant.target, grant.column, grant.privilege, grant.role)


def _flat(statement: str) -> str:
    return " ".join(statement.split())


def _compact(setting: str) -> str:
    return setting.replace(" ", "").replace('"', "").replace("'", "")

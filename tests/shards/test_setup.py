"""`farebox shards …`: setting up, checking, migrating; what a router and a shard refuse."""

from __future__ import annotations

import hashlib
import json
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest

from farebox import migrate
from farebox.cli.shards import init as init_command
from farebox.errors import ConfigurationError, FareboxError, MigrationError, TransientError
from farebox.shards import ShardDsn, add, check, init, make_reader, migrate_all
from farebox.shards._layout import connect, hold_map
from tests.cli.commands import farebox
from tests.core.support import Call
from tests.shards.support import SHARDS, RoutedDatabase, Sharded, clone
from tests.shards.test_registry import Companies

_PUBLIC = """
select p.proname || pg_get_function_arguments(p.oid) || pg_get_function_result(p.oid),
  p.provolatile, p.prosecdef, p.proacl::text
from pg_proc as p where p.pronamespace = 'farebox'::regnamespace and not starts_with(p.proname, '_')
order by 1
"""


def test_the_router_offers_what_a_database_offers(sharded: Sharded) -> None:
    """The same functions with the same arguments, columns, rights and comments."""
    with psycopg.connect(sharded.dsn) as router, psycopg.connect(sharded.shard_dsn("one")) as shard:
        offered = {row[0]: row[1:] for row in router.execute(_PUBLIC)}
        direct = {row[0]: row[1:] for row in shard.execute(_PUBLIC)}
    assert offered.keys() == direct.keys()
    # On a router all run with the owner's rights, who alone has the login to the shards.
    assert {
        name for name in direct if (offered[name][0], offered[name][2]) != (direct[name][0], direct[name][2])
    } == set()


def test_every_public_function_is_the_routers_own(sharded: Sharded) -> None:
    """None is left that would look into the router's empty tables. A procedure calls the others."""
    with psycopg.connect(sharded.dsn) as router:
        left = router.execute(
            "select p.proname from pg_proc as p where p.pronamespace = 'farebox'::regnamespace"
            " and not starts_with(p.proname, '_') and p.prosrc !~"
            " '_at_|_change_catalog|_route_requests|_shards_in_turn|create_tickets' and p.prokind = 'f'"
        ).fetchall()
    # A list of SQLSTATEs: it looks into no table.
    assert left == [("blameless_errors",)]


def test_partitions_do_not_depend_on_the_server(sharded: Sharded) -> None:
    """What MD5 says; a change here would lose every company."""
    company = "7a355cca-a7cd-5ca6-beb4-a627b35fcc8d"
    with psycopg.connect(sharded.dsn) as router:
        row = router.execute(
            "select farebox._partition_of(%s), farebox._partition_of(null)", [company]
        ).fetchone()
    digests = (hashlib.md5(key.encode()).hexdigest() for key in (company, ""))
    assert row == tuple(int(digest[:8], 16) % 64 for digest in digests) == (0x08, 0x19)


def test_repeating_changes_nothing_and_all_agree(sharded: Sharded) -> None:
    given = [ShardDsn(name, sharded.shard_dsn(name)) for name in SHARDS]
    assert init(sharded.dsn, given) == sharded.layout
    assert check(sharded.dsn) == []
    with pytest.raises(ConfigurationError, match="router of other shards"):
        init(sharded.dsn, given[:2])


def test_check_finds_who_disagrees(sharded: Sharded) -> None:
    sharded.on(
        "two", "delete from farebox.own_partitions where partition = %s", [sharded.layout.shard("two").at]
    )
    assert [problem.where for problem in check(sharded.dsn)] == ["two"]
    ran = farebox("shards", "check", "--json", dsn=sharded.dsn)
    assert (ran.code, ran.rows[0]["where"]) == (1, "two")
    sharded.on("two", "insert into farebox.own_partitions values (%s)", [sharded.layout.shard("two").at])
    assert farebox("shards", "check", dsn=sharded.dsn).code == 0


def test_a_shard_refuses_a_company_that_is_not_its_own(sharded: Sharded) -> None:
    company = sharded.company_on("three")
    with pytest.raises(psycopg.Error, match="does not belong") as raised:
        sharded.on("one", "insert into farebox.companies (id, name) values (%s, 'C')", [company])
    assert raised.value.sqlstate == "TK006"
    sharded.on("three", "insert into farebox.companies (id, name) values (%s, 'C')", [company])
    ran = farebox("shards", "where", company, "--json", dsn=sharded.dsn)
    assert ran.document["shard"] == "three"


def test_a_router_with_an_old_map_does_no_harm(db: RoutedDatabase) -> None:
    """The shard answers for its own partitions only: nothing is stored in the wrong place."""
    companies = Companies(db)
    sharded = db.sharded
    conn = db.connect(autocommit=True)
    sharded.on("one", "update farebox.own_partitions set is_open = false")
    row = conn.execute(
        "select reason from farebox.create_tickets(json_build_array(%s::json))",
        [json.dumps(companies.pay("one", sharded.payment_at("two")))],
    ).fetchone()
    sharded.on("one", "update farebox.own_partitions set is_open = true")
    assert row == ("shard_unavailable",)
    assert sharded.on("one", "select 1 from farebox.tickets") == []
    assert sharded.on("one", "select 1 from farebox.unapplied_payments") == []


def test_a_route_that_is_asked_for_again_is_made_once(db: RoutedDatabase) -> None:
    """One shard's answer comes too late, so all are asked again. Once a bug: two routes."""
    companies = Companies(db)
    sharded = db.sharded
    new = {"name": "again", "origin": "A", "destination": "B", "fare": 1}
    routes = [new | {"company_id": str(companies.ids[name])} for name in ("one", "two")]
    batch = json.dumps([*routes, routes[0] | {"fare": 0}])
    made: LiteralString = "select count(*) from farebox.routes where name = 'again'"
    with psycopg.connect(sharded.shard_dsn("two")) as mover:
        mover.execute(
            "select pg_advisory_lock('farebox.own_partitions'::regclass::oid::int,"
            " farebox._partition_of(%s))",
            [str(companies.ids["two"])],
        )
        sharded.on("two", "update farebox.own_partitions set is_open = false")
        call = Call(
            lambda: (
                db.connect(autocommit=True)
                .execute(
                    "select id is null, coalesce(reason, outcome) from farebox.upsert_routes(%s)", [batch]
                )
                .fetchall()
            )
        )
        while sharded.on("one", made) == [(0,)]:
            pass
    outcomes = call.result()
    sharded.on("two", "update farebox.own_partitions set is_open = true")
    assert outcomes == [(False, "unchanged"), (True, "shard_unavailable"), (True, "fare_invalid")]
    assert sharded.on("one", made) == [(1,)]


def test_router_and_shards_are_migrated_together_or_not_at_all(sharded: Sharded) -> None:
    for dsn in (sharded.dsn, sharded.shard_dsn("one")):
        with pytest.raises(MigrationError, match="sharded installation"):
            migrate.apply(dsn)


def test_an_installation_from_blank_databases_is_migrated_and_grows(sharded: Sharded) -> None:
    """The way of people: an empty database first, another one later, one command for migrations."""
    server, suffix = sharded.server, uuid4().hex[:8]
    names = [f"{kind}_{suffix}" for kind in ("grown_router", "grown_a", "grown_b")]
    login = None
    try:
        router, first, second = map(server.dsn, names)
        for name in names[1:]:
            server.create_database(name, tap=None)
        migrate.apply(second)
        clone(server, names[0], names[2])
        assert farebox("shards", "init", f"a={first}", "--partitions", "8", dsn=router).code == 0
        layout = add(router, ShardDsn("b", second))
        login = layout.login
        assert [len(shard.partitions) for shard in layout.shards] == [8, 0]
        assert [(done.name, done.applied) for done in migrate_all(router)] == [
            ("a", []),
            ("b", []),
            ("router", []),
        ]
        assert check(router) == []
        ran = farebox("shards", "status", "--json", dsn=router)
        assert [row["answers"] for row in ran.rows] == [True, True]
    finally:
        for name in names:
            server.drop_database(name)
        if login is not None:
            with server.connect() as conn:
                conn.execute(f"drop role {login}".encode())


def test_what_cannot_become_an_installation_is_refused_before_anything_is_noted(sharded: Sharded) -> None:
    """A router that has noted its shards takes no others."""
    server = sharded.server
    names = [f"{kind}_{uuid4().hex[:8]}" for kind in ("no_router", "no_shard")]
    for name in names:
        server.create_database(name)
    router, other = map(server.dsn, names)

    def refused(error: type[FareboxError], words: str, **shards: str) -> None:
        with pytest.raises(error, match=words) as raised:
            init(router, [ShardDsn(name, dsn) for name, dsn in shards.items()])
        assert raised.value.hint is not None

    try:
        same = other.replace("127.0.0.1", "localhost")
        refused(ConfigurationError, "b is the database of another shard", a=other, b=same)
        refused(ConfigurationError, "a is the database of .* the router", a=router)
        refused(ConfigurationError, "a is a router", a=sharded.dsn)
        company = sharded.company_on("three")
        with psycopg.connect(other) as conn:
            conn.execute("insert into farebox.companies (id, name) values (%s, 'C')", [company])
        refused(MigrationError, "1 companies of no_shard_.* do not belong", a=other, b=server.dsn("postgres"))
        with connect(router) as conn:
            hold_map(conn)
            refused(TransientError, "another farebox shards command", a=other)
        with pytest.raises(ConfigurationError, match="is no router"):
            check(router)
        given = [ShardDsn(name, sharded.shard_dsn(name)) for name in SHARDS]
        for reader, words in (
            (sharded.dsn.replace("127.0.0.1", "localhost"), "that is the router itself"),
            (sharded.shard_dsn("one"), "is shard 1 of this sharded installation"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                make_reader(sharded.dsn, reader, given)
        assert check(sharded.dsn) == []
    finally:
        for name in names:
            server.drop_database(name)


@pytest.mark.parametrize(
    ("given", "dsn", "via"),
    [
        ("host=h password='a via b'", "host=h password='a via b'", None),
        ("host=h password='a via b' via host=p port=6432", "host=h password='a via b'", "host=p port=6432"),
    ],
)
def test_a_password_may_have_the_words_of_the_command_in_it(given: str, dsn: str, via: str | None) -> None:
    [parameter] = [p for p in init_command.params if p.name == "databases"]
    assert parameter.type.convert(f"one={given}", None, None) == ShardDsn("one", dsn, via)


def test_shards_whose_router_was_lost_get_a_new_one_and_standbys_a_reader(db: RoutedDatabase) -> None:
    sharded = db.sharded
    companies = Companies(db)
    server, suffix = sharded.server, uuid4().hex[:8]
    names = [f"new_router_{suffix}", f"reader_{suffix}"]
    given = [ShardDsn(name, sharded.shard_dsn(name)) for name in SHARDS]
    try:
        for name in names:
            server.create_database(name)
        with pytest.raises(ConfigurationError, match="not all the shards"):
            init(server.dsn(names[0]), given[:2])
        assert init(server.dsn(names[0]), given) == sharded.layout
        assert check(server.dsn(names[0])) == []
        make_reader(server.dsn(names[0]), server.dsn(names[1]), given)
        with psycopg.connect(server.dsn(names[1])) as conn:
            conn.execute("set transaction read only")
            found = conn.execute("select id from farebox.list_companies()").fetchall()
        assert {row[0] for row in found} == set(companies.ids.values())
    finally:
        # The first router's login has a new password now.
        init(sharded.dsn, given)
        for name in names:
            server.drop_database(name)


def test_a_companys_login_is_told_that_a_router_has_no_rows(db: RoutedDatabase) -> None:
    with (
        db.connect(dsn=db.login("farebox_company")) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        conn.execute("select * from farebox.tickets")

"""`farebox shards …`: companies over many databases. The guide is db/SHARDING.md."""

from __future__ import annotations

import click

from farebox import shards as sharding
from farebox._dsn import Target
from farebox.cli.output import Column, Exit
from farebox.cli.session import Session, with_session
from farebox.cli.shards_demo import demo
from farebox.errors import ConfigurationError
from farebox.shards import ShardDsn

_SHARD = Column("name", "id", "shard")


class _ShardParameter(click.ParamType[ShardDsn]):
    """NAME=DSN, or NAME=DSN via DSN."""

    name = "NAME=DSN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ShardDsn:
        name, given, dsn = str(value).partition("=")
        if not given or not name.isidentifier():
            self.fail("give the shard a name: NAME=postgresql://…", param, ctx)
        before, found, via = dsn.rpartition(" via ")
        if not found or not _is_conninfo(via):  # those words may stand in a password
            return ShardDsn(name, dsn.strip())
        return ShardDsn(name, before.strip(), via.strip())


def _is_conninfo(text: str) -> bool:
    try:
        Target(text)
    except ConfigurationError:
        return False
    return True


@click.group()
def shards() -> None:
    """Companies over many databases: a router, by which everything is asked, and its shards.

    --dsn (or FAREBOX_DSN) names the router. Commands reach the shards with the login of that DSN.
    """


@shards.command()
@click.argument("databases", nargs=-1, required=True, type=_ShardParameter(), metavar="NAME=DSN…")
@click.option(
    "--partitions",
    type=click.Choice(["1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1024"]),
    default=str(sharding.PARTITIONS),
    show_default=True,
    help="Into how many parts companies fall; a part is what moves between shards. Never changes.",
)
@click.option(
    "--registry/--no-registry",
    default=True,
    show_default=True,
    help="Keep payments and codes unique over all shards. Off: the provider guarantees it.",
)
@with_session
def init(session: Session, databases: tuple[ShardDsn, ...], partitions: str, registry: bool) -> None:
    """Make the database of --dsn the router of these shards. Safe to repeat: it goes on where it stopped.

    The router needs PL/Proxy and a superuser; shards need neither. Databases without Farebox are migrated.
    The router reaches a shard where its DSN says, or, after the word `via`, by a PgBouncer before it.

    \b
    Examples:
      farebox shards init one=postgresql://admin@db1/farebox two=postgresql://admin@db2/farebox
      farebox shards init "one=postgresql://admin@db1/farebox via host=localhost port=6432"
    """
    with session.out.working("setting up"):
        layout = sharding.init(session.dsn, databases, partitions=int(partitions), registry=registry)
    session.out.document(
        {"cluster_id": layout.cluster_id, "shards": [shard.name for shard in layout.shards]},
        f"{len(layout.shards)} shards with {layout.partitions} partitions, "
        f"registry {'on' if layout.has_registry else 'off'}",
    )


@shards.command()
@click.argument("database", type=_ShardParameter(), metavar="NAME=DSN")
@with_session
def add(session: Session, database: ShardDsn) -> None:
    """Add a shard, ready for partitions: `farebox shards move` brings it some.

    \b
    Examples:
      farebox shards add five=postgresql://admin@db5/farebox
    """
    with session.out.working("setting up"):
        sharding.add(session.dsn, database)
    session.out.document({"added": database.name}, f"added {database.name}; it has no partitions yet")


@shards.command()
@click.argument("reader", metavar="DSN")
@click.argument("replicas", nargs=-1, type=_ShardParameter(), metavar="NAME=DSN…")
@click.option("--forget", is_flag=True, help="Moves and migrations leave that reader alone from now on.")
@with_session
def reader(session: Session, reader: str, replicas: tuple[ShardDsn, ...], forget: bool) -> None:
    """Make the database DSN a router for reads from standbys, one for each shard (`read_dsn`).

    Moves of partitions change its map too, and `farebox shards migrate` migrates it.

    \b
    Examples:
      farebox shards reader postgresql://postgres@router/reads one=postgresql://standby1/farebox
      farebox shards reader postgresql://postgres@router/reads --forget
    """
    if forget == bool(replicas):
        raise click.UsageError("name the standbys, or --forget")
    if forget:
        sharding.forget_reader(session.dsn, reader)
        session.out.document({"forgotten": str(Target(reader))}, "the router keeps its map no longer")
        return
    with session.out.working("setting up"):
        layout = sharding.make_reader(session.dsn, reader, replicas)
    session.out.document({"replicas": len(layout.shards)}, f"reads from {len(layout.shards)} standbys")


@shards.command()
@with_session
def status(session: Session) -> None:
    """Show each shard: where it is, whether it answers, what it holds. Ends with 1 if one does not answer.

    \b
    Examples:
      farebox shards status
    """
    layout, states = sharding.status(session.dsn)
    session.out.say(
        f"{layout.partitions} partitions, registry {'on' if layout.has_registry else 'off'}, "
        f"the router's login is {layout.login}"
    )
    columns = (
        _SHARD,
        Column("answers"),
        Column("partitions", "count"),
        Column("companies", "count"),
        Column("tickets", "count", "tickets (estimate)"),
        Column("queued", "count"),
        Column("bytes", "count"),
        Column("place"),
        Column("problem"),
    )
    session.out.rows(({name: getattr(state, name) for name in state.__slots__} for state in states), columns)
    if (move_under_way := sharding.moving(session.dsn)) is not None:
        session.out.warn(str(move_under_way))
    if not all(state.answers for state in states):
        raise click.exceptions.Exit(Exit.FOUND)


@shards.command()
@with_session
def check(session: Session) -> None:
    """Check that router and shards agree about the map, and are of one version; ends with 1 if not.

    \b
    Examples:
      farebox shards check
    """
    with session.out.working("checking"):
        problems = sharding.check(session.dsn)
    if problems:
        session.out.rows(
            ({"where": problem.where, "what": problem.what} for problem in problems),
            (Column("where", "id"), Column("what")),
        )
        raise click.exceptions.Exit(Exit.FOUND)
    session.out.say("router and shards agree", style="green")


@shards.command()
@with_session
def migrate(session: Session) -> None:
    """Apply what is pending of the migrations, shard by shard, the router last. Sales go on meanwhile.

    A failure says where it stopped; the same command again goes on there.

    \b
    Examples:
      farebox shards migrate
    """
    for done in sharding.migrate_all(session.dsn):
        session.out.document(
            {"database": done.name, "applied": done.applied},
            f"{done.name}: {', '.join(done.applied) or 'up to date'}",
        )


@shards.command()
@click.argument("company", type=click.UUID)
@with_session
def where(session: Session, company: object) -> None:
    """Tell which shard a company is on: there its own logins read its tables.

    \b
    Examples:
      farebox shards where 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d
    """
    found = sharding.where(session.dsn, str(company))
    if found is None:
        raise ConfigurationError("no shard has that company's partition")
    session.out.document(
        {"shard": found[0].name, "partition": found[1], "place": found[0].place},
        f"{found[0].name}, partition {found[1]}: {found[0].place}",
    )


@shards.command()
@click.argument("partition", type=click.IntRange(0))
@click.argument("target", metavar="[SHARD]", required=False)
@click.option("--abort", is_flag=True, help="Take back the move that has begun, as long as it can be.")
@click.option(
    "--fence-seconds",
    type=click.FloatRange(0.1, 25),
    default=sharding.FENCE_SECONDS,
    show_default=True,
    help="How long the partition may be closed before the move gives up for now.",
)
@click.option(
    "--source-dsn",
    metavar="DSN",
    help="How the target's server reaches the partition's shard. Without it: as this command does.",
)
@with_session
def move(
    session: Session,
    partition: int,
    target: str | None,
    abort: bool,
    fence_seconds: float,
    source_dsn: str | None,
) -> None:
    """Move a partition to another shard while sales go on. Run it again after a failure: it goes on.

    It copies by logical replication, closes the partition for a moment (callers wait), compares, switches,
    and removes what is left behind. Until the switch --abort takes it back; later it is another move.
    `farebox shards where COMPANY` tells a company's partition.

    \b
    Examples:
      farebox shards move 17 five
      farebox shards move 17 --abort
    """
    if abort == (target is not None):
        raise click.UsageError("name the shard to move to, or --abort")
    steps = (
        sharding.abort(session.dsn, partition)
        if target is None
        else sharding.move(session.dsn, partition, target, fence_seconds=fence_seconds, source_dsn=source_dsn)
    )
    told = None
    with session.out.working("moving") as tell:
        for progress in steps:
            if (progress.step, progress.text) != told:
                told = (progress.step, progress.text)
                fields = {name: getattr(progress, name) for name in progress.__slots__}
                session.out.document(fields | {"partition": partition}, f"{progress.step}: {progress.text}")
            if progress.rows is not None:
                tell(progress.rows)


shards.add_command(demo)

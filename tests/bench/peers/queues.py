"""The queue: payments are stored in batches, two workers make tickets of them, until the last one is there.

Whoever makes the tickets calls Farebox's functions, so that all give the same guarantees in the end: what is
compared is the way from being stored to that call. Farebox's, pgmq's and Redis' workers take a hundred at a
time; procrastinate and PgQueuer know jobs one by one.
"""

# The packages are not Farebox's (requirements.txt); tests/typings has what is used of them.
# pyright: reportMissingModuleSource=false

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from farebox._cluster import free_port
from farebox.bench.contest import Connection, Contender, compete
from farebox.bench.payments import Payment, Seller, new_batches, open_companies
from farebox.bench.place import Place, connect
from farebox.bench.report import Check, Report
from tests.bench.queue_rate import worker_process

Batches = list[list[Payment]]
Store = Callable[[Batches], None]

_WORKERS = 2
_SLOW = 10
# By idx_tickets_pending: those of this round, whatever was there before.
_MADE = "select count(*) from farebox.tickets where status = 'pending' and created_at >= %s"


def run(place: Place, batch: int, connections: int, rows: int, rounds: int) -> Report:
    """Each in a database of its own on the same server."""
    report = Report(
        "peers: queue",
        {"batch": batch, "producers": connections, "workers": _WORKERS, "rows": rows, "rounds": rounds}
        | {"connections": connections, "duplicate_share": 0.0},
    )
    with contextlib.ExitStack() as stack:
        contenders: list[Contender[Any]] = []
        for name, opened, share in (
            ("farebox enqueue and worker", _farebox, 1),
            ("pgmq", _pgmq, 1),
            ("procrastinate", _procrastinate, _SLOW),
            ("PgQueuer", _pgqueuer, _SLOW),
            ("Redis stream, appendfsync always", _redis("always"), 1),
            ("Redis stream, appendfsync everysec (can lose a second)", _redis("everysec"), 1),
        ):
            dsn = place.another()
            store = stack.enter_context(opened(dsn, connections))
            contenders.append(_contender(name, dsn, store, open_companies(dsn, 10), batch, rows // share))
        compete(report, place.dsn, contenders, connections=1, rounds=rounds, tell=lambda _: None)
        for contender in contenders:
            report.latencies.pop(f"a batch: {contender.name}")
            assert contender.dsn is not None
            checked = Report("", {})
            checked.verify(contender.dsn, tickets=contender.rows * (rounds + 1))
            report.violations += checked.violations
            report.checks += [
                Check(f"{contender.name}: {c.what}", c.expected, c.found) for c in checked.checks
            ]
    return report


def _contender(
    name: str, dsn: str, store: Store, sellers: Sequence[Seller], batch: int, rows: int
) -> Contender[Any]:
    def do(conn: Connection, work: Batches) -> Counter[str]:
        [(began,)] = conn.execute("select clock_timestamp()").fetchall()
        store(work)
        while conn.execute(_MADE, [began]).fetchall()[0][0] < rows:
            time.sleep(0.02)
        return Counter()

    return Contender(name, lambda: [new_batches(sellers, rows, batch)], do, rows, dsn=dsn)


class _Producers:
    """Threads with a connection each that share out the batches."""

    def __init__(self, dsn: str, count: int) -> None:
        self._connections = [connect(dsn) for _ in range(count)]
        self._threads = ThreadPoolExecutor(count)

    def store(self, work: Batches, do: Callable[[Connection, list[Payment]], object]) -> None:
        def some(number: int) -> None:
            for one in work[number :: len(self._connections)]:
                do(self._connections[number], one)

        for done in [self._threads.submit(some, number) for number in range(len(self._connections))]:
            done.result()

    def close(self) -> None:
        self._threads.shutdown()
        for conn in self._connections:
            conn.close()


@contextlib.contextmanager
def _workers(kind: str, *arguments: str) -> Generator[None]:
    processes = [
        subprocess.Popen([sys.executable, "-m", "tests.bench.peers.queue_worker", kind, *arguments])
        for _ in range(_WORKERS)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _farebox(dsn: str, connections: int) -> Generator[Store]:
    with contextlib.closing(_Producers(dsn, connections)) as producers, worker_process(dsn):
        yield lambda work: producers.store(
            work,
            lambda conn, one: conn.execute(
                "select count(*) from farebox.enqueue_tickets(%s)", [json.dumps(one)]
            ),
        )


@contextlib.contextmanager
def _pgmq(dsn: str, connections: int) -> Generator[Store]:
    with connect(dsn) as conn:
        conn.execute((resources.files("pgmq") / "sql" / "pgmq.sql").read_bytes())
        conn.execute("select pgmq.create('bench')")
    with contextlib.closing(_Producers(dsn, connections)) as producers, _workers("pgmq", dsn):
        yield lambda work: producers.store(
            work,
            lambda conn, one: conn.execute(
                "select count(*) from pgmq.send_batch('bench', %s::jsonb[])", [[Jsonb(p) for p in one]]
            ),
        )


@contextlib.contextmanager
def _procrastinate(dsn: str, connections: int) -> Generator[Store]:
    from tests.bench.peers.procrastinate_app import make

    app, _ = make(dsn)

    async def prepare() -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def store(work: Batches) -> None:
        task = app.tasks["create"]

        async def some(number: int) -> None:
            for one in work[number::connections]:
                await task.batch_defer_async(*({"payment": json.dumps(payment)} for payment in one))

        async with app.open_async():
            await asyncio.gather(*(some(number) for number in range(connections)))

    asyncio.run(prepare())
    with _workers("procrastinate", dsn):
        yield lambda work: asyncio.run(store(work))


@contextlib.contextmanager
def _pgqueuer(dsn: str, connections: int) -> Generator[Store]:
    from pgqueuer.db import PsycopgDriver
    from pgqueuer.queries import Queries

    async def opened() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True)

    async def prepare() -> None:
        async with await opened() as conn:
            await Queries(PsycopgDriver(conn)).install()

    async def store(work: Batches) -> None:
        async def some(number: int) -> None:
            async with await opened() as conn:
                queries = Queries(PsycopgDriver(conn))
                for one in work[number::connections]:
                    payloads: list[bytes | None] = [json.dumps(payment).encode() for payment in one]
                    await queries.enqueue(["create"] * len(one), payloads, [0] * len(one))

        await asyncio.gather(*(some(number) for number in range(connections)))

    asyncio.run(prepare())
    with _workers("pgqueuer", dsn):
        yield lambda work: asyncio.run(store(work))


def _redis(fsync: str) -> Callable[[str, int], contextlib.AbstractContextManager[Store]]:
    @contextlib.contextmanager
    def opened(dsn: str, connections: int) -> Generator[Store]:
        import redis

        folder, port = tempfile.mkdtemp(prefix="farebox-redis-"), free_port()
        server = subprocess.Popen(
            [
                *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""),
                *("--appendonly", "yes", "--appendfsync", fsync, "--logfile", f"{folder}/log"),
            ]
        )
        client = redis.Redis(port=port)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    client.xgroup_create("bench", "workers", mkstream=True)
                    break
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            threads = ThreadPoolExecutor(connections)

            def some(batches: Batches) -> None:
                for one in batches:
                    with client.pipeline(transaction=False) as pipe:
                        for payment in one:
                            pipe.xadd("bench", {"payment": json.dumps(payment)})
                        pipe.execute()

            def store(work: Batches) -> None:
                for done in [threads.submit(some, work[n::connections]) for n in range(connections)]:
                    done.result()

            with _workers("redis", dsn, str(port)):
                yield store
            threads.shutdown()
        finally:
            client.close()
            server.terminate()
            server.wait()
            shutil.rmtree(folder)

    return opened

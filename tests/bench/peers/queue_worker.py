"""A worker of one of the queues: ``python -m tests.bench.peers.queue_worker KIND DSN [REDIS_PORT]``."""

# The packages are not Farebox's (requirements.txt); tests/typings has what is used of them.
# pyright: reportMissingModuleSource=false

import asyncio
import json
import sys

import psycopg

_CREATE = "select count(*) from farebox.create_tickets(%s)"
_BATCH = 100


def pgmq(dsn: str, _: str) -> None:
    """Read, create and delete in one transaction."""
    with psycopg.connect(dsn) as conn:
        while True:
            rows = conn.execute(
                "select msg_id, message from pgmq.read_with_poll('bench', 30, %s, 5, 20)", [_BATCH]
            ).fetchall()
            if rows:
                conn.execute(_CREATE, [json.dumps([row[1] for row in rows])])
                conn.execute("select pgmq.delete('bench', %s::bigint[])", [[row[0] for row in rows]])
            conn.commit()


def redis(dsn: str, port: str) -> None:
    """A consumer of a group; acknowledged after the tickets are committed."""
    import redis as client

    server = client.Redis(port=int(port), decode_responses=True)
    name = f"worker-{id(server)}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            answer = server.xreadgroup("workers", name, {"bench": ">"}, count=_BATCH, block=1000)
            for _, entries in answer or []:
                conn.execute(_CREATE, [f"[{','.join(fields['payment'] for _, fields in entries)}]"])
                ids = [entry for entry, _ in entries]
                with server.pipeline(transaction=False) as pipe:
                    pipe.xack("bench", "workers", *ids)
                    pipe.xdel("bench", *ids)
                    pipe.execute()


def procrastinate(dsn: str, _: str) -> None:
    """One job a payment, as many at once as the pool has connections."""
    from tests.bench.peers.procrastinate_app import make

    app, opened = make(dsn, jobs=True)

    async def work() -> None:
        async with app.open_async(), opened:
            await app.run_worker_async(
                concurrency=20,
                delete_jobs="successful",
                install_signal_handlers=False,
                fetch_job_polling_interval=0.05,
            )

    asyncio.run(work())


def pgqueuer(dsn: str, _: str) -> None:
    """One job a payment, fetched a hundred at a time."""
    import asyncpg
    from pgqueuer import QueueManager
    from pgqueuer.db import AsyncpgPoolDriver
    from pgqueuer.models import Job
    from pgqueuer.queries import Queries
    from psycopg.conninfo import conninfo_to_dict

    async def work() -> None:
        c = conninfo_to_dict(dsn)
        names = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "database"}
        pool = await asyncpg.create_pool(
            **{to: c[name] for name, to in names.items()},
            min_size=4,
            max_size=10,
        )
        manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))

        @manager.entrypoint("create")
        async def create(job: Job) -> None:
            assert job.payload is not None
            await pool.fetch(
                "select outcome from farebox.create_ticket($1::text::json)", job.payload.decode()
            )

        await manager.run(batch_size=_BATCH)

    asyncio.run(work())


if __name__ == "__main__":
    kind, target, *rest = sys.argv[1:]
    {"pgmq": pgmq, "redis": redis, "procrastinate": procrastinate, "pgqueuer": pgqueuer}[kind](
        target, *(rest or [""])
    )

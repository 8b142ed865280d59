"""Four shards on this machine, each a server of its own, and a router: what going by the router costs.

``--what rate``: tickets a second with mixed companies, two clients; the same batches sent to the shards by
the clients themselves (cut by company, the four parts at once), whole batches of one shard's companies, and
what PL/Proxy alone would do: parts cut by the client beforehand, with no logic of ours on the router.
``--what latency``: one ticket a call. ``--what lost``: calls for healthy companies, alone and with those
of a shard that is killed half-way. Contenders take turns; medians and their spread are printed.

    python -m tests.bench shards --what rate --batch 100
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import statistics
import struct
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq

from farebox.shards import Layout, ShardDsn, init
from tests.bench.support import SETTINGS
from tests.support.servers import Farm, Server

SHARDS = 4
CREATE = b"select * from farebox.create_tickets($1::json)"

# The least that any router on PL/Proxy does, and the least that a registry costs: the parts go to the
# shards as they are. A bound, not an offer: there is no order, no retry, no check.
BARE_CREATE = b"select * from bare_create($1::int[], $2::text[])"
BARE_CLAIM = b"select * from bare_claim($1::int[], $2::text[], $3::text[])"
_ON_SHARD = """
create function bare_create(p_at int[], p_batches text[]) returns setof farebox.ticket_outcome
language sql as $$ select o.* from farebox.create_tickets(p_batches[1]::json) as o $$;
create function bare_claim(p_at int[], p_subjects text[], p_companies text[]) returns setof text
language sql security definer as $$
  insert into farebox.claims (company_id, claimed_at, kind, subject)
  select c.company_id, now(), 'p', c.subject
  from unnest(p_subjects[1]::text[], p_companies[1]::uuid[]) as c(subject, company_id)
  order by c.subject collate "C"
  on conflict (subject, kind) do nothing
  returning null::text;
$$
"""
_ON_ROUTER = """
create function bare_create(p_at int[], p_batches text[]) returns setof farebox.ticket_outcome
language plproxy as $$ cluster 'farebox'; split all; run on p_at; target bare_create; $$;
create function bare_claim(p_at int[], p_subjects text[], p_companies text[]) returns setof text
language plproxy as $$ cluster 'farebox'; split all; run on p_at; target bare_claim; $$
"""
_TEXT, _INT = 25, 23


@dataclass
class Place:
    """A company, its route and the number of its shard, from 0."""

    company: str
    route: str
    shard: int


@dataclass
class Payment:
    """A request, the shard of its company and that of its claim."""

    place: Place
    subject: str
    home: int
    request: bytes


class Bench:
    """The servers, the companies and what is sent."""

    def __init__(self, router: Server, servers: list[Server], layout: Layout) -> None:
        self.router = router
        self.servers = servers
        self.layout = layout
        self.places: list[Place] = []
        self._shard_of = of = {part: shard.number - 1 for shard in layout.shards for part in shard.partitions}
        for server in servers:
            with psycopg.connect(server.dsn("shard"), autocommit=True) as conn:
                conn.execute(_ON_SHARD)
        with psycopg.connect(router.dsn("router"), autocommit=True) as conn:
            conn.execute(_ON_ROUTER)
            for _ in range(64):
                company, route = str(uuid.uuid4()), str(uuid.uuid4())
                row = conn.execute("select farebox._partition_of(%s)", [company]).fetchone()
                assert row is not None
                assert of[row[0]] == self._home(company)
                self.places.append(Place(company, route, of[row[0]]))
            companies = [{"id": p.company, "name": "Bench"} for p in self.places]
            fields = {"name": "R", "origin": "A", "destination": "B", "fare": 5000}
            routes = [{"id": p.route, "company_id": p.company} | fields for p in self.places]
            conn.execute("select from farebox.upsert_companies(%s::json)", [json.dumps(companies)])
            conn.execute("select from farebox.upsert_routes(%s::json)", [json.dumps(routes)])

    def registry(self, on: bool) -> None:
        """Switches it for the calls to come."""
        with psycopg.connect(self.router.dsn("router"), autocommit=True) as conn:
            conn.execute("update farebox.sharding set has_registry = %s", [on])

    def payment(self, place: Place) -> Payment:
        """A new payment of that company."""
        subject = f"pay-{uuid.uuid4().hex}"
        request = {
            "company_id": place.company,
            "route_id": place.route,
            "passenger_phone": f"+23276{random.randrange(10**6):06}",
            "monime_transaction_id": subject,
            "monime_otp": f"{random.randrange(10**6):06}",
            "amount": 5000,
        }
        return Payment(place, subject, self._home(subject), json.dumps(request).encode())

    def _home(self, key: str) -> int:
        """As `_partition_of` in SQL, and its shard."""
        digest = hashlib.md5(key.encode(), usedforsecurity=False).digest()
        return self._shard_of[int.from_bytes(digest[:4], "big") % self.layout.partitions]

    def at(self, shard: int) -> int:
        """That shard's place in the router's map."""
        at = self.layout.shards[shard].at
        assert at is not None
        return at

    def batch(self, size: int, shards: set[int] | None = None) -> list[Payment]:
        """New payments of random companies (of those shards)."""
        places = [p for p in self.places if shards is None or p.shard in shards]
        return [self.payment(place) for place in random.choices(places, k=size)]


@contextlib.contextmanager
def bench() -> Generator[Bench]:
    """Five durable servers on the disk; gone at the end."""
    os.environ.setdefault("TMPDIR", tempfile.gettempdir())
    farm = Farm(Farm.make_root())
    settings = SETTINGS | {"shared_buffers": "256MB"}
    try:
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(farm.private("pg15", **settings)) for _ in range(SHARDS + 1)]
            for number, server in enumerate(servers):
                server.create_database("shard" if number else "router")
            dsns = [ShardDsn(f"s{n}", server.dsn("shard")) for n, server in enumerate(servers[1:], 1)]
            layout = init(servers[0].dsn("router"), dsns)
            yield Bench(servers[0], servers[1:], layout)
    finally:
        shutil.rmtree(farm.root)


def joined(payments: list[Payment]) -> bytes:
    """A batch of them."""
    return b"[" + b",".join(payment.request for payment in payments) + b"]"


def grouped(payments: list[Payment], of: Callable[[Payment], int]) -> dict[int, list[Payment]]:
    """By shard."""
    groups: dict[int, list[Payment]] = {}
    for payment in payments:
        groups.setdefault(of(payment), []).append(payment)
    return groups


def array(kind: int, items: Sequence[bytes]) -> bytes:
    """A one-dimensional array in PostgreSQL's binary format."""
    body = b"".join(struct.pack("!i", len(item)) + item for item in items)
    return struct.pack("!iiiii", 1, 0, kind, len(items), 1) + body


class Client:
    """The connections of one client: to the router and to each shard."""

    def __init__(self, bench: Bench, *, to_shards: bool = True) -> None:
        self._ats = [struct.pack("!i", bench.at(shard)) for shard in range(SHARDS)]
        self.router = psycopg.connect(bench.router.dsn("router"), autocommit=True)
        # The login to the shards is that of farebox_owner.
        self.bare = psycopg.connect(bench.router.dsn("router"), autocommit=True)
        self.bare.execute("set role farebox_owner")
        self.bare.pgconn.prepare(b"create", BARE_CREATE)
        self.bare.pgconn.prepare(b"claim", BARE_CLAIM)
        self.shards = [
            psycopg.connect(server.dsn("shard"), autocommit=True) for server in bench.servers if to_shards
        ]
        for conn in (self.router, *self.shards):
            conn.pgconn.prepare(b"create", CREATE)

    def routed(self, batch: list[Payment]) -> None:
        """As an application does it."""
        self.router.pgconn.send_query_prepared(b"create", [joined(batch)])
        self._take(self.router)

    def cut(self, batch: list[Payment]) -> None:
        """To the shards, the parts at once."""
        parts = grouped(batch, lambda payment: payment.place.shard)
        for shard, payments in parts.items():
            self.shards[shard].pgconn.send_query_prepared(b"create", [joined(payments)])
        for shard in parts:
            self._take(self.shards[shard])

    def carried(self, batch: list[Payment]) -> None:
        """By PL/Proxy alone."""
        parts = grouped(batch, lambda payment: payment.place.shard)
        self._carry(b"create", parts, [list(map(joined, parts.values()))])

    def claimed_and_carried(self, batch: list[Payment]) -> None:
        """By PL/Proxy alone, each payment claimed before."""
        parts = grouped(batch, lambda payment: payment.home)
        subjects = [",".join(p.subject for p in part) for part in parts.values()]
        companies = [",".join(p.place.company for p in part) for part in parts.values()]
        self._carry(
            b"claim", parts, [[f"{{{text}}}".encode() for text in texts] for texts in (subjects, companies)]
        )
        self.carried(batch)

    def _carry(self, name: bytes, parts: dict[int, list[Payment]], columns: list[list[bytes]]) -> None:
        arrays = [array(_INT, [self._ats[shard] for shard in parts])]
        arrays += [array(_TEXT, column) for column in columns]
        self.bare.pgconn.send_query_prepared(name, arrays, [1] * len(arrays))
        self._take(self.bare)

    def _take(self, conn: psycopg.Connection[Any]) -> None:
        while (result := conn.pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise RuntimeError(result.error_message.decode())


def spread(values: list[float]) -> str:
    """The median, the lowest and the highest."""
    return f"{statistics.median(values):,.2f} ({min(values):,.2f} to {max(values):,.2f})"


def rate(bench: Bench, size: int, rounds: int, tickets: int) -> None:
    """Tickets a second of each contender, two clients."""
    clients = [Client(bench) for _ in range(2)]

    def timed(send: Callable[[Client, list[Payment]], None], whole: bool) -> float:
        batches = [
            [bench.batch(size, {(c + n) % SHARDS} if whole else None) for n in range(tickets // size // 2)]
            for c in range(2)
        ]

        def run(number: int) -> None:
            for batch in batches[number]:
                send(clients[number], batch)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(map(len, batches[0] + batches[1])) / (time.monotonic() - start)

    def routed(on: bool) -> float:
        bench.registry(on)
        return timed(Client.routed, False)

    contenders: dict[str, Callable[[], float]] = {
        "shards, cut by the client": lambda: timed(Client.cut, False),
        "shards, whole batches": lambda: timed(Client.cut, True),
        "router": lambda: routed(False),
        "router with registry": lambda: routed(True),
        "PL/Proxy alone": lambda: timed(Client.carried, False),
        "PL/Proxy alone, and claims": lambda: timed(Client.claimed_and_carried, False),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        names = list(contenders)
        random.shuffle(names)
        for name in names:
            measured = contenders[name]()
            if number:
                rates[name].append(measured)
    print(
        f"batches of {size}, {rounds} rounds of {tickets:,} tickets a contender, 2 clients, tickets a second"
    )
    base = next(iter(contenders))
    for name, values in rates.items():
        ratios = [value / floor for value, floor in zip(values, rates[base], strict=True)]
        print(f"  {name:<28} {spread(values):<40} ratio {spread(ratios)}")


def latency(bench: Bench, rounds: int) -> None:
    """Milliseconds of a call with one ticket, one client."""
    client = Client(bench)
    times: dict[str, list[float]] = {"shard": [], "router": [], "router with registry": []}
    for _ in range(rounds * 5):
        for name, values in times.items():
            bench.registry(name == "router with registry")
            for _ in range(20):
                batch = bench.batch(1)
                start = time.monotonic()
                (client.cut if name == "shard" else client.routed)(batch)
                values.append((time.monotonic() - start) * 1000)
    print(f"one ticket a call, {rounds * 100} calls each, ms")
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100)
        print(f"  {name:<28} median {cuts[49]:.2f}, p99 {cuts[98]:.2f}")


def lost(bench: Bench, registry: bool) -> None:
    """Milliseconds of calls, before a shard is killed and while it is down."""
    bench.registry(registry)
    phases: dict[str, list[list[float]]] = {}
    for phase in ("before", "down"):
        if phase == "down":
            bench.servers[-1].cluster.kill()
        kinds: list[list[float]] = [[], []]

        def run(kinds: list[list[float]] = kinds) -> None:
            client = Client(bench, to_shards=False)
            for number in range(1_000):
                mixed = number % 2
                batch = bench.batch(20, None if mixed else {0, 1, 2})
                start = time.monotonic()
                client.routed(batch)
                if number >= 100:
                    kinds[mixed].append((time.monotonic() - start) * 1000)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        phases[phase] = kinds
    print(f"calls of 20 tickets, 2 clients, registry {'on' if registry else 'off'}, ms")
    for kind, name in enumerate(("healthy companies only", "mixed with the lost shard's")):
        cuts = {phase: statistics.quantiles(kinds[kind], n=100) for phase, kinds in phases.items()}
        told = ", ".join(f"{phase}: median {c[49]:.2f} p99 {c[98]:.2f}" for phase, c in cuts.items())
        print(f"  {name:<28} {told}; p99 {cuts['down'][98] / cuts['before'][98]:.2f} of before")


def main(arguments: list[str]) -> None:
    """Parses the options and runs."""
    parser = argparse.ArgumentParser(prog="shards", description=__doc__)
    parser.add_argument("--what", choices=["rate", "latency", "lost"], default="rate")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tickets", type=int, default=20_000, help="of each contender in each round")
    parser.add_argument("--no-registry", action="store_true")
    options = parser.parse_args(arguments)
    with bench() as servers:
        if options.what == "rate":
            rate(servers, options.batch, options.rounds, options.tickets)
        elif options.what == "latency":
            latency(servers, options.rounds)
        else:
            lost(servers, not options.no_registry)

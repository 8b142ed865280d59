"""Metrics: what the SQL functions tell, the text format, the exporter, and what the driver itself counts."""

import asyncio
import json
import re
import signal
import urllib.request
from collections.abc import Mapping, Sequence

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from farebox import Farebox
from farebox.events import BatchEvent, ConnectionEvent, Event, RetryEvent
from farebox.metrics import DriverMetrics
from farebox.monitoring.samples import GROUPS, HELP, Family, Sample, collect, render
from farebox.worker import Worker
from tests.cli.commands import farebox, start
from tests.support.database import Database
from tests.support.servers import VERSIONS, Farm, NotAvailableError, add_extension


def value(families: Sequence[Family], name: str, **labels: str) -> float:
    """The value of the one sample with these labels."""
    [found] = [
        sample.value
        for family in families
        if family.name == name
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    ]
    return found


def sell(db: Database, payments: Sequence[Mapping[str, object]]) -> None:
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(payments)])
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")


def test_every_group_is_read_and_every_metric_explained(db: Database) -> None:
    company = db.company()
    sell(db, [db.payment(company, db.route(company), passenger_phone="+23276***")])
    families = collect(db.dsn)
    for group in GROUPS:
        assert value(families, "farebox_group_up", group=group) == 1
    assert {family.name for family in families} <= HELP.keys()
    assert len({family.name for family in families}) == len(families)


def test_a_worker_may_read_them_all(db: Database) -> None:
    families = collect(db.login("farebox_worker"))
    assert [value(families, "farebox_group_up", group=group) for group in GROUPS] == [1] * len(GROUPS)


def test_tickets_and_what_came_again(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    payments = [db.payment(company, route) for _ in range(40)]
    sell(db, payments)
    before = collect(db.dsn, ["tickets"])
    assert value(before, "farebox_rows_written_total", table="tickets", operation="insert") == 40
    assert value(before, "farebox_last_ticket_timestamp_seconds") > 1.7e9
    sell(db, payments)
    sell(db, [*payments[:7], payments[7] | {"amount": 4999}])
    other = db.company()
    sell(db, [payments[0] | {"company_id": str(other)}])
    after = collect(db.dsn, ["tickets"])
    assert value(after, "farebox_rows_written_total", table="tickets", operation="insert") == 40
    outcomes = {"created": 40, "duplicate": 47, "conflict": 1, "rejected": 1}
    for outcome, answers in outcomes.items():
        assert value(after, "farebox_ticket_outcomes_total", outcome=outcome) == answers


def test_counting_answers_writes_nothing(db: Database) -> None:
    """A replay is free of WAL and of a transaction id; what is rolled back was answered all the same."""
    company = db.company()
    route = db.route(company)
    payments = [db.payment(company, route) for _ in range(250)]
    sell(db, payments)
    with db.connect(autocommit=True) as conn:
        # Hint bits wait until the commit is on disk, which is not waited for on this server.
        conn.execute("set synchronous_commit = on")
        conn.execute("select pg_logical_emit_message(true, 'test', 'flushed with its commit')")
    sell(db, payments)  # sets the hint bits of the new rows
    conflicts = [payment | {"amount": 4999} for payment in payments]
    call = "explain (analyze, wal, format json) select from farebox.create_tickets(%s::json)"
    with db.connect() as conn:
        for batch in (payments, conflicts):
            [(plan,)] = conn.execute(call, [json.dumps(batch)]).fetchall()
            assert plan[0]["Plan"]["Actual Rows"] == 250
            assert plan[0]["Plan"]["WAL Records"] == 0
        assert conn.execute("select pg_current_xact_id_if_assigned()").fetchall() == [(None,)]
        conn.rollback()
        conn.execute("select pg_stat_force_next_flush()")
    families = collect(db.dsn, ["tickets"])
    assert value(families, "farebox_ticket_outcomes_total", outcome="duplicate") == 500
    assert value(families, "farebox_ticket_outcomes_total", outcome="conflict") == 250


def test_money_without_tickets_and_codes_near_their_limit(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    code = db.code(company, 10)
    sell(db, [db.payment(company, route, payment_code=code) for _ in range(9)])
    sell(db, [db.payment(company, route, passenger_phone="+23276***") for _ in range(3)])
    families = collect(db.dsn, ["unapplied", "codes"])
    assert value(families, "farebox_unapplied_payments", reason="phone_invalid") == 3
    assert 0 < value(families, "farebox_unapplied_oldest_seconds") < 60
    assert value(families, "farebox_payment_codes", status="active") == 1
    assert value(families, "farebox_payment_codes_nearly_spent") == 1
    db.execute("update farebox.payment_codes set expires_at = now() - interval '1 s'")
    assert value(collect(db.dsn, ["codes"]), "farebox_payment_codes_overdue") == 1


def test_the_queue(db: Database) -> None:
    company = db.company()
    payments = [db.payment(company, db.route(company)) for _ in range(7)]
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(payments)])
    families = collect(db.dsn, ["queue"])
    assert value(families, "farebox_queue_size") == 7
    assert value(families, "farebox_queue_requests", state="ready") == 7
    assert value(families, "farebox_queue_attempts", attempts="0") == 7
    assert value(families, "farebox_queue_oldest_seconds") > 0
    assert value(families, "farebox_queue_dead") == 0


def test_what_the_queue_tries_again(db: Database) -> None:
    """One request cannot be written: its batch is put back and tried in halves, until it waits alone."""
    company = db.company()
    route = db.route(company)
    payments = [db.payment(company, route, monime_otp="POISON" if n == 3 else "482913") for n in range(8)]
    db.execute("alter table farebox.tickets add constraint poison check (monime_otp <> 'POISON')")
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(payments)])
    db.execute("select * from farebox.process_ticket_queue()")
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")
    assert value(collect(db.dsn, ["retries"]), "farebox_queue_retries_total") == 8
    counts = farebox("worker", "--drain", "--json", dsn=db.dsn).document
    families = collect(db.dsn, ["retries"])
    assert value(families, "farebox_queue_retries_total") == 8 + counts["retried"]
    assert value(families, "farebox_queue_given_up_total") == counts["dead"] == 0
    assert value(families, "farebox_queue_backoff", reason="error_23514") == 1


def test_locks_old_transactions_and_running_batches(db: Database) -> None:
    holder, seller = db.connect(), db.connect(autocommit=True)
    holder.execute("lock table farebox.payment_codes")
    company = db.company()
    payment = db.payment(company, db.route(company), payment_code="*1#")
    seller.pgconn.send_query(f"select * from farebox.create_tickets('[{json.dumps(payment)}]')".encode())
    db.wait_until_blocked(seller)
    families = collect(db.dsn, ["server", "batches"])
    assert value(families, "farebox_blocked_sessions") >= 1
    assert value(families, "farebox_oldest_transaction_seconds") > 0
    assert value(families, "farebox_batches_running") == 1
    assert value(families, "farebox_batch_running_seconds") > 0
    assert value(families, "farebox_connections_limit") == 197
    # Whoever watches does not stand in line with the others.
    assert value(collect(db.dsn, ["codes"]), "farebox_group_up", group="codes") == 0
    holder.rollback()
    seller.pgconn.get_result()


def test_workers_are_known_by_the_name_of_their_connections(db: Database) -> None:
    # Others' tests have workers on this server; only those of the database count.
    assert value(collect(db.dsn, ["server"]), "farebox_workers") == 0
    db.connect(dsn=f"{db.dsn}?application_name=farebox%20worker%20of%20this%20test")
    assert value(collect(db.dsn, ["server"]), "farebox_workers") == 1


def test_an_extension_whose_library_is_not_loaded_does_no_harm(db: Database) -> None:
    add_extension(db.connect(autocommit=True), "pg_stat_statements", "postgresql-15")
    families = collect(db.dsn, ["batches"])
    assert value(families, "farebox_group_up", group="batches") == 1
    assert value(families, "farebox_batches_running") == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_calls_and_seconds_where_the_server_counts_them(farm: Farm, version: str) -> None:
    try:
        with farm.private(
            version, track_functions="pl", shared_preload_libraries="pg_stat_statements", autovacuum="off"
        ) as server:
            server.create_database("counted")
            db = Database(server, "counted")
            add_extension(db.connect(autocommit=True), "pg_stat_statements", "postgresql-15")
            company = db.company()
            route = db.route(company)
            for _ in range(3):
                sell(db, [db.payment(company, route) for _ in range(5)])
            families = collect(db.dsn, ["batches"])
            assert value(families, "farebox_function_calls_total", function="create_tickets") == 3
            assert value(families, "farebox_function_seconds_total", function="create_tickets") > 0
            assert value(families, "farebox_statement_calls_total", function="create_tickets") == 3
            assert value(families, "farebox_statement_seconds_max", function="create_tickets") > 0
            db.close()
    except NotAvailableError as reason:
        pytest.skip(str(reason))


def test_the_text_is_what_prometheus_reads(db: Database) -> None:
    company = db.company()
    sell(db, [db.payment(company, db.route(company))])
    printed = farebox("metrics", dsn=db.dsn)
    assert printed.code == 0
    families = {family.name: family for family in text_string_to_metric_families(printed.out)}
    assert families["farebox_up"].samples[0].value == 1
    assert families["farebox_rows_written"].type == "counter"
    assert families["farebox_queue_size"].type == "gauge"


def test_labels_are_escaped() -> None:
    text = render([Family("farebox_x", [Sample({"a": 'one "two"\nthree\\'}, 1.5)])])
    [family] = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"a": 'one "two"\nthree\\'}
    assert family.samples[0].value == 1.5


def test_one_group_only_and_json(db: Database) -> None:
    rows = farebox("metrics", "--group", "queue", "--json", dsn=db.dsn).rows
    assert {"metric": "farebox_queue_size", "labels": {}, "value": 0} in rows
    assert not any(row["metric"] == "farebox_connections" for row in rows)


def test_a_database_that_is_down_or_empty_is_a_reading_too(blank_db: Database, farm: Farm) -> None:
    families = collect(blank_db.dsn)
    assert value(families, "farebox_up") == 1
    assert value(families, "farebox_group_up", group="tickets") == 0
    down = farebox("metrics", dsn=f"host={farm.root} connect_timeout=2")
    assert down.code == 3
    assert "farebox_up 0" in down.out


def test_metrics_are_served_until_stopped(db: Database) -> None:
    process = start("metrics", "--serve", "127.0.0.1:0", "--json", dsn=db.dsn)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["serving"]
        with urllib.request.urlopen(url, timeout=60) as response:
            text = response.read().decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["farebox_up"].samples[0].value == 1
        assert families["farebox_rows_written"].type == "counter"
        assert re.search(r'^farebox_group_up\{group="queue"\} 1\.0$', text, re.MULTILINE)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", ":9187"])
def test_an_address_that_is_none_is_wrong_usage(db: Database, address: str) -> None:
    assert farebox("metrics", "--serve", address, dsn=db.dsn).code == 2


def test_the_driver_counts_outcomes_batches_and_connections(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    payments = [db.payment(company, route) for _ in range(10)]
    registry = CollectorRegistry()
    with Farebox(db.dsn, on_event=DriverMetrics(registry)) as client:
        client.create_tickets(payments)
        client.create_tickets([*payments[:4], payments[5] | {"amount": 4999}])
        counted = registry.get_sample_value
        assert counted("farebox_driver_outcomes_total", {"outcome": "created"}) == 10
        assert counted("farebox_driver_outcomes_total", {"outcome": "duplicate"}) == 4
        assert counted("farebox_driver_outcomes_total", {"outcome": "conflict"}) == 1
        assert counted("farebox_driver_batch_rows_sum", {"function": "create_tickets"}) == 15
        assert (counted("farebox_driver_batch_seconds_count", {"function": "create_tickets"}) or 0) >= 2
    text = generate_latest(registry).decode()
    assert "farebox_driver_connection_events_total" in text
    assert str(payments[0]["passenger_phone"]) not in text


def test_the_driver_counts_errors_and_retries() -> None:
    registry = CollectorRegistry()
    hook = DriverMetrics(registry)
    hook(
        BatchEvent(
            target="postgresql://x/y",
            function="create_tickets",
            size=3,
            attempt=1,
            waited=0.1,
            duration=0.2,
            rows=0,
            error="40001",
        )
    )
    hook(RetryEvent(function="create_tickets", size=3, attempt=1, delay=0.1, error="40001"))
    hook(ConnectionEvent("opened", "postgresql://x/y"))
    hook(ConnectionEvent("refused", "postgresql://x/y", "08006"))
    labels = {"function": "create_tickets", "error": "40001"}
    assert registry.get_sample_value("farebox_driver_errors_total", labels) == 1
    assert registry.get_sample_value("farebox_driver_retries_total", labels) == 1
    assert registry.get_sample_value("farebox_driver_connections", {"target": "postgresql://x/y"}) == 1


async def test_a_worker_is_counted(db: Database) -> None:
    """No worker is at work on a server that others share; this one is."""
    before = value(collect(db.dsn, ["server"]), "farebox_workers")
    worker = Worker(db.dsn, concurrency=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        async with asyncio.timeout(60):
            while value(collect(db.dsn, ["server"]), "farebox_workers") < before + 1:
                await asyncio.sleep(0.01)
        worker.stop()


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_a_worker_serves_what_it_counts(db: Database) -> None:
    """Outcomes, batches, how long they took, connections: by the same names as the driver's."""
    company = db.company()
    payments = [db.payment(company, db.route(company)) for _ in range(7)]
    payments += [
        payments[0],
        payments[1] | {"amount": 4999},
        payments[2] | {"monime_transaction_id": "p", "amount": 0},
    ]
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(payments)])
    process = start("worker", "--metrics", "127.0.0.1:0", "--log-format", "json", dsn=db.dsn)
    try:
        assert process.stderr is not None
        url = json.loads(process.stderr.readline())["message"].removeprefix("metrics: ")
        db.wait_until("select farebox.queue_size() = 0")
        counted: dict[str, float] = {}
        values: dict[str, float] = {}
        while sum(counted.values()) < len(payments):
            with urllib.request.urlopen(url, timeout=60) as response:
                families = text_string_to_metric_families(response.read().decode())
            samples = [sample for family in families for sample in family.samples]
            values = {sample.name: sample.value for sample in samples}
            counted = {
                sample.labels["outcome"]: sample.value
                for sample in samples
                if sample.name == "farebox_driver_outcomes_total"
            }
        assert counted == {"created": 7, "duplicate": 1, "conflict": 1, "rejected": 1}
        assert values["farebox_driver_batch_rows_sum"] == len(payments)
        assert values["farebox_driver_batch_seconds_sum"] > 0
        assert values["farebox_driver_connections"] >= 1
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


async def test_a_worker_counts_what_fails(farm: Farm) -> None:
    """A server that is down: refused connections, failed batches, and how often they were sent again."""
    registry = CollectorRegistry()
    counts = DriverMetrics(registry)
    retried = asyncio.Event()

    def hook(event: Event) -> None:
        counts(event)
        if isinstance(event, RetryEvent):
            retried.set()

    worker = Worker(f"host={farm.root} connect_timeout=2", concurrency=1, on_event=hook)
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        group.create_task(worker.run())
        await retried.wait()
        worker.stop()
    labels = {"function": "process_ticket_queue", "error": "TransientError"}
    assert (registry.get_sample_value("farebox_driver_errors_total", labels) or 0) >= 1
    assert (registry.get_sample_value("farebox_driver_retries_total", labels) or 0) >= 1
    assert any(
        sample.labels.get("what") == "refused" and sample.value
        for family in registry.collect()
        for sample in family.samples
    )

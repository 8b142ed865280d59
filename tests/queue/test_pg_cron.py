"""The queue without Python: pg_cron calls what db/README.md tells it to."""

import pytest

from tests.core.support import Shop, violations
from tests.queue.support import enqueue
from tests.support.database import Database
from tests.support.servers import Farm, NotAvailableError


def test_pg_cron_drains_the_queue(farm: Farm) -> None:
    """Debian's pg_cron 1.4 counts in minutes only, so the job is one that runs when the server starts."""
    try:
        with farm.shared("pg15").connect() as conn:
            found = conn.execute("select from pg_available_extensions where name = 'pg_cron'").rowcount
        if not found:
            raise NotAvailableError("pg_cron is not installed (Debian: postgresql-15-cron)")
        private = farm.private(
            "pg15",
            shared_preload_libraries="pg_cron",
            # Else it needs a password file of the server's account.
            **{"cron.database_name": "cron", "cron.use_background_workers": "on"},
        )
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    with private as server:
        server.create_database("cron")
        db = Database(server, "cron")
        payments = Shop(db).payments(250)
        enqueue(db.connect(autocommit=True), payments)
        db.execute("create extension pg_cron")
        db.execute("select cron.schedule('farebox queue', '@reboot', 'call farebox.drain_ticket_queue()')")
        db.disconnect()
        server.stop()
        server.start()
        db.wait_until(
            "select exists (select from cron.job_run_details where status in ('succeeded', 'failed'))"
        )
        assert db.execute("select status, return_message from cron.job_run_details") == [
            ("succeeded", "CALL")
        ]
        assert db.value("select count(*) from farebox.tickets") == len(payments)
        assert not violations(db)
        db.close()

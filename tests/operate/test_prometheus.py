"""A real Prometheus with our rules and exporters: an alert fires and ends, each panel has data to show."""

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from farebox import Farebox, TransientError
from farebox._cluster import free_port
from farebox.metrics import DriverMetrics
from farebox.monitoring.exporter import served
from tests.cli.commands import farebox, start
from tests.operate.test_rules import FOLDER, RULES
from tests.support.database import Database
from tests.support.servers import Farm, NotAvailableError, add_extension

_CONFIG = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: farebox
    scheme: http
    static_configs: [{{targets: {targets}}}]
"""


@contextmanager
def exporter(dsn: str) -> Generator[str]:
    """`farebox metrics --serve`; gives its host and port."""
    process = start("metrics", "--serve", "127.0.0.1:0", "--json", dsn=dsn)
    try:
        assert process.stdout is not None
        url = str(json.loads(process.stdout.readline())["serving"])
        yield urllib.parse.urlsplit(url).netloc
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class Prometheus:
    """Its API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def wait_for(self, query: str, condition: Callable[[list[Any]], bool]) -> list[Any]:
        """The result of the query as soon as it is so; fails after a minute."""
        deadline = time.monotonic() + 60
        result: list[Any] = []
        while True:
            try:
                encoded = urllib.parse.urlencode({"query": query})
                with urllib.request.urlopen(f"{self._url}query?{encoded}", timeout=10) as answer:
                    result = json.load(answer)["data"]["result"]
            except OSError:
                pass  # It is still starting.
            if condition(result):
                return result
            assert time.monotonic() < deadline, result
            time.sleep(0.05)


@contextmanager
def prometheus_of(folder: Path, *targets: str) -> Generator[Prometheus]:
    """One that scrapes these, with its files in that folder."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    # The same rules; only nobody has the patience to wait the minutes until a state counts.
    rules = folder / "rules.yml"
    rules.write_text(re.sub(r"^ +for: .*\n", "", RULES.read_text(), flags=re.MULTILINE))
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(rules=rules, targets=json.dumps(targets)))
    process = subprocess.Popen(
        [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def prometheus(db: Database, tmp_path: Path) -> Iterator[Prometheus]:
    with exporter(db.dsn) as target, prometheus_of(tmp_path, target) as running:
        yield running


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_an_alert_fires_and_ends(db: Database, prometheus: Prometheus) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    [up] = prometheus.wait_for("up", lambda result: bool(result) and result[0]["value"][1] == "1")
    assert up["metric"]["job"] == "farebox"
    prometheus.wait_for("farebox_up", lambda result: bool(result) and result[0]["value"][1] == "1")
    firing = 'ALERTS{alertname="FareboxDeadRequests", alertstate="firing"}'
    prometheus.wait_for(firing, lambda result: result == [])
    batch = [payment, payment | {"amount": 4999}]
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(batch)])
    assert farebox("worker", "--drain", dsn=db.dsn).code == 0
    [alert] = prometheus.wait_for(firing, bool)
    assert alert["metric"]["severity"] == "warning"
    [dead] = farebox("queue", "dead", "--json", dsn=db.dsn).rows
    assert farebox("queue", "drop", "--yes", dead["key"], dsn=db.dsn).code == 0
    prometheus.wait_for(firing, lambda result: result == [])


@contextmanager
def watched(farm: Farm) -> Generator[Database]:
    """A database of a server that counts statements, in which a bit of everything has happened."""
    try:
        with farm.private("pg18", shared_preload_libraries="pg_stat_statements") as server:
            server.create_database("watched")
            db = Database(server, "watched")
            add_extension(db.connect(autocommit=True), "pg_stat_statements", "postgresql-15")
            company = db.company()
            route, code = db.route(company), db.code(company, 10)
            payments = [db.payment(company, route, payment_code=code) for _ in range(9)]
            payments += [payments[0], payments[1] | {"amount": 4999}, payments[2] | {"company_id": "?"}]
            payments.append(db.payment(company, route, passenger_phone="+23276***"))
            db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(payments)])
            db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(payments)])
            db.execute("vacuum (analyze)")
            yield db
            db.close()
    except NotAvailableError as reason:
        pytest.skip(str(reason))


@contextmanager
def driver_exporter(db: Database) -> Generator[str]:
    """What an application would serve of its driver, which has also met a server that is down and a lock."""
    registry = CollectorRegistry()
    counts = DriverMetrics(registry)
    company = db.company()
    payment = db.payment(company, db.route(company))
    with Farebox(db.dsn, on_event=counts) as client:
        client.create_tickets([payment])
    with Farebox("host=127.0.0.1 port=1", on_event=counts) as lost, pytest.raises(TransientError):
        lost.create_tickets([payment])
    holder = db.connect()
    holder.execute("lock table farebox.tickets")
    impatient = f"{db.dsn}?options=-c%20lock_timeout%3D1"
    with Farebox(impatient, on_event=counts) as client, pytest.raises(TransientError):
        client.create_tickets([payment])
    holder.rollback()
    with served(registry, "127.0.0.1", 0) as url:
        yield urllib.parse.urlsplit(url).netloc


def test_every_panel_of_the_dashboard_shows_data(farm: Farm, tmp_path: Path) -> None:
    """No Grafana can be installed here; what it would ask is asked instead, and its legends are filled in."""
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    asked = [(panel["title"], target) for panel in panels for target in panel.get("targets", [])]
    assert len(asked) > 30
    with (
        watched(farm) as db,
        driver_exporter(db) as driver,
        exporter(db.dsn) as database,
        prometheus_of(tmp_path, database, driver) as prometheus,
    ):
        for title, target in asked:
            result = prometheus.wait_for(target["expr"], bool)
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            for series in result:
                assert labels <= series["metric"].keys(), title
            # One line for each legend, or nobody could tell them apart.
            assert len(
                {tuple(series["metric"].get(label) for label in sorted(labels)) for series in result}
            ) == len(result), title

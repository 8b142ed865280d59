"""A real Prometheus with the rules that are shipped, and the exporter: an alert fires and ends."""

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

from farebox._cluster import free_port
from tests.cli.commands import farebox, start
from tests.operate.test_rules import RULES
from tests.support.database import Database

_CONFIG = """\
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: farebox
    scheme: http
    static_configs: [{{targets: ["{target}"]}}]
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


@pytest.fixture
def prometheus(db: Database, tmp_path: Path) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    # The same rules; only nobody has the patience to wait the minutes until a state counts.
    rules = tmp_path / "rules.yml"
    rules.write_text(re.sub(r"^ +for: .*\n", "", RULES.read_text(), flags=re.MULTILINE))
    port = free_port()
    with exporter(db.dsn) as target:
        config = tmp_path / "prometheus.yml"
        config.write_text(_CONFIG.format(rules=rules, target=target))
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
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

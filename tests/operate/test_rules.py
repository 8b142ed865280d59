# ruff: noqa: E501 - a series stays on one line
"""Alert rules, by promtool: each fires when it should, and not just before. The dashboard shows what there is."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from farebox import monitoring
from farebox.metrics import DriverMetrics
from farebox.monitoring.samples import HELP

FOLDER = Path(monitoring.__file__).parent
RULES = FOLDER / "rules.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())

_OUTCOMES = 'farebox_ticket_outcomes_total{outcome="%s"}'
_BUCKETS = ("1", "2", "5", "10", "+Inf")


def slow(share_by_bucket: dict[str, int]) -> dict[str, str]:
    """The histogram of the driver's batches: how many a minute took at most so long."""
    return {
        f'farebox_driver_batch_seconds_bucket{{function="create_tickets",le="{edge}"}}': f"0+{count}x30"
        for edge, count in share_by_bucket.items()
    }


def answers(**a_minute: int) -> dict[str, str]:
    """The database's counters of answers: how many a minute of each outcome."""
    return {_OUTCOMES % outcome: f"0+{count}x30" for outcome, count in a_minute.items()}


# By alert: cases in which it fires after twenty minutes, and cases in which it does not.
Series = dict[str, str]
CASES: dict[str, tuple[list[Series], list[Series]]] = {
    "FareboxDown": ([{"farebox_up": "0x30"}, {"something_else": "1x30"}], [{"farebox_up": "1x30"}]),
    "FareboxMetricsMissing": (
        [{'farebox_group_up{group="queue"}': "0x30"}],
        [{'farebox_group_up{group="queue"}': "1x30"}, {'farebox_group_up{group="queue"}': "1x17 0x10"}],
    ),
    "FareboxQueueLong": (
        [{"farebox_queue_size": "1001x30"}, {"farebox_queue_size": "5000x30"}],
        [{"farebox_queue_size": "1000x30"}, {"farebox_queue_size": "5001x30"}],
    ),
    "FareboxQueueTooLong": ([{"farebox_queue_size": "5001x30"}], [{"farebox_queue_size": "5000x30"}]),
    "FareboxNoWorker": (
        [
            {"farebox_workers": "0x30", "farebox_queue_size": "10+10x30"},
            {"farebox_workers": "0x30", "farebox_queue_size": "3x30"},
        ],
        [
            {"farebox_workers": "1x30", "farebox_queue_size": "10+10x30"},
            {"farebox_workers": "0x30", "farebox_queue_size": "0x30"},
            {"farebox_workers": "0x30", "farebox_queue_size": "900-10x30"},
        ],
    ),
    "FareboxDeadRequests": ([{"farebox_queue_dead": "1x30"}], [{"farebox_queue_dead": "0x30"}]),
    "FareboxBatchSlow": (
        [
            {"farebox_batch_running_seconds": "2.5x30"},
            {
                'farebox_statement_seconds_total{function="create_tickets"}': "0+30x30",
                'farebox_statement_calls_total{function="create_tickets"}': "0+10x30",
            },
            slow({"1": 0, "2": 0, "5": 100, "10": 100, "+Inf": 100}),
        ],
        [
            {"farebox_batch_running_seconds": "2x30"},
            {"farebox_batch_running_seconds": "6x30"},
            {
                'farebox_statement_seconds_total{function="create_tickets"}': "0+15x30",
                'farebox_statement_calls_total{function="create_tickets"}': "0+10x30",
            },
            slow({"1": 0, "2": 100, "5": 100, "10": 100, "+Inf": 100}),
        ],
    ),
    "FareboxBatchTooSlow": (
        [
            {"farebox_batch_running_seconds": "5.5x30"},
            {
                'farebox_statement_seconds_total{function="create_tickets"}': "0+60x30",
                'farebox_statement_calls_total{function="create_tickets"}': "0+10x30",
            },
            slow({"1": 0, "2": 0, "5": 0, "10": 100, "+Inf": 100}),
        ],
        [
            {"farebox_batch_running_seconds": "5x30"},
            {
                'farebox_statement_seconds_total{function="create_tickets"}': "0+40x30",
                'farebox_statement_calls_total{function="create_tickets"}': "0+10x30",
            },
            slow({"1": 0, "2": 0, "5": 100, "10": 100, "+Inf": 100}),
        ],
    ),
    "FareboxDuplicatesUnusual": (
        [answers(created=500, duplicate=501)],
        [
            answers(created=500, duplicate=499, conflict=300),
            # A handful on a quiet night is nothing.
            answers(created=1, duplicate=3),
        ],
    ),
    "FareboxConflictsUnusual": (
        [answers(created=990, conflict=11), answers(duplicate=900, conflict=100)],
        [
            answers(created=990, conflict=9),
            answers(created=500, duplicate=5000),
            {_OUTCOMES % "conflict": "0x15 4x20", _OUTCOMES % "created": "0x30"},
        ],
    ),
    "FareboxRetriesUnusual": (
        [
            {
                'farebox_driver_retries_total{error="40001"}': "0+10x30",
                "farebox_driver_batch_seconds_count": "0+100x30",
            }
        ],
        [
            {
                'farebox_driver_retries_total{error="40001"}': "0+4x30",
                "farebox_driver_batch_seconds_count": "0+100x30",
            }
        ],
    ),
    "FareboxQueueRetriesUnusual": (
        [{"farebox_queue_retries_total": "0+110x30"} | answers(created=1000)],
        [
            {"farebox_queue_retries_total": "0+90x30"} | answers(created=1000),
            {"farebox_queue_retries_total": "0+110x30"} | answers(created=3000),
        ],
    ),
    "FareboxConnectionsNearLimit": (
        [
            {
                'farebox_connections{state="active"}': "50x30",
                'farebox_connections{state="idle"}': "31x30",
                "farebox_connections_limit": "100x30",
            }
        ],
        [
            {
                'farebox_connections{state="active"}': "50x30",
                'farebox_connections{state="idle"}': "30x30",
                "farebox_connections_limit": "100x30",
            }
        ],
    ),
    "FareboxSnapshotOld": (
        [{"farebox_oldest_snapshot_xids": "1000001x30"}, {"farebox_oldest_transaction_seconds": "601x30"}],
        [{"farebox_oldest_snapshot_xids": "1000000x30", "farebox_oldest_transaction_seconds": "600x30"}],
    ),
    "FareboxLockWait": ([{"farebox_blocked_seconds": "31x30"}], [{"farebox_blocked_seconds": "30x30"}]),
    "FareboxDeadlocks": ([{"farebox_deadlocks_total": "7x15 8x15"}], [{"farebox_deadlocks_total": "7x30"}]),
    "FareboxUnappliedPayments": (
        [
            {
                'farebox_unapplied_payments{reason="code_expired"}': "1x30",
                "farebox_unapplied_oldest_seconds": "3601x30",
            }
        ],
        [
            {
                'farebox_unapplied_payments{reason="code_expired"}': "1x30",
                "farebox_unapplied_oldest_seconds": "3600x30",
            },
            {"farebox_unapplied_oldest_seconds": "0x30"},
        ],
    ),
    "FareboxCodesNearlySpent": (
        [{"farebox_payment_codes_nearly_spent": "2x30"}],
        [{"farebox_payment_codes_nearly_spent": "0x30"}],
    ),
    "FareboxMaintenanceMissing": (
        [{"farebox_payment_codes_overdue": "1x60"}],
        [{"farebox_payment_codes_overdue": "0x60"}, {"farebox_payment_codes_overdue": "1x20 0x40"}],
    ),
    "FareboxBloat": (
        [
            {
                'farebox_bloat_ratio{relation="tickets",kind="table"}': "0.6x99",
                'farebox_relation_bytes{relation="tickets",kind="table"}': "2000000000x99",
            }
        ],
        [
            {
                'farebox_bloat_ratio{relation="tickets",kind="table"}': "0.5x99",
                'farebox_relation_bytes{relation="tickets",kind="table"}': "2000000000x99",
            },
            {
                'farebox_bloat_ratio{relation="tickets",kind="table"}': "0.9x99",
                'farebox_relation_bytes{relation="tickets",kind="table"}': "1000000x99",
            },
        ],
    ),
    "FareboxTransactionIdsOld": (
        [{"farebox_oldest_xid_age": "1000000001x30"}],
        [{"farebox_oldest_xid_age": "1000000000x30"}],
    ),
    "FareboxSlotHoldsLog": (
        [{'farebox_slot_retained_bytes{slot="replica"}': "10737418241x30"}],
        [{'farebox_slot_retained_bytes{slot="replica"}': "10737418240x30"}],
    ),
}


def promtool(*args: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run([program, *map(str, args)], capture_output=True, text=True, check=False)


def judge(
    tmp_path: Path, alert: str, *cases: tuple[Series, dict[str, Any]]
) -> subprocess.CompletedProcess[str]:
    """promtool's word on series and what is expected of each, a sample a minute. JSON is YAML too."""
    minutes = 70 if alert == "FareboxBloat" else 40 if alert == "FareboxMaintenanceMissing" else 20
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            **{kind: [{"eval_time": f"{minutes}m", **what}] for kind, what in expected.items()},
        }
        for series, expected in cases
    ]
    file = tmp_path / "case.json"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    return promtool("test", "rules", file)


def firing(alert: str, expected: bool) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": 1}] if expected else []
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {"promql_expr_test": {"expr": query, "exp_samples": samples}}


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_has_cases_in_which_it_fires_and_in_which_it_does_not() -> None:
    assert list(CASES) == ALERTS
    assert all(loud and quiet for loud, quiet in CASES.values())


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_only_then(tmp_path: Path, alert: str) -> None:
    loud, quiet = CASES[alert]
    cases = [(series, firing(alert, True)) for series in loud]
    cases += [(series, firing(alert, False)) for series in quiet]
    judged = judge(tmp_path, alert, *cases)
    # It does not say which of them.
    wrong = [case for case in cases if judged.returncode and judge(tmp_path, alert, case).returncode]
    assert (judged.returncode, wrong) == (0, []), judged.stdout + judged.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_what_an_alert_says_can_be_said(tmp_path: Path, alert: str) -> None:
    """Templates are expanded only when an alert fires; expecting none makes promtool print what it got."""
    series = CASES[alert][0][0]
    judged = judge(tmp_path, alert, (series, {"alert_rule_test": {"alertname": alert, "exp_alerts": []}}))
    said = judged.stdout + judged.stderr
    assert judged.returncode == 1
    assert 'summary="' in said
    assert 'fix="' in said
    assert "error expanding" not in said


def known_metrics() -> set[str]:
    """Every name that a scrape of the database or of a driver can hold."""
    registry = CollectorRegistry()
    DriverMetrics(registry)
    names = set(HELP)
    for family in registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
        names |= {family.name + suffix for suffix in suffixes[family.type]}
    return names


@pytest.mark.parametrize("file", ["rules.yml", "dashboard.json"])
def test_only_metrics_that_there_are_are_asked_for(file: str) -> None:
    text = (FOLDER / file).read_text()
    asked = set(re.findall(r"\bfarebox_\w+", text))
    assert asked
    # The last is a role, not a metric.
    assert asked - known_metrics() - {"farebox_worker"} == set()


def test_the_dashboard_is_one_that_grafana_can_load() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert dashboard["uid"] == "farebox"
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert {"title", "type", "gridPos"} <= panel.keys()
        assert panel["type"] == "row" or all(target["expr"] for target in panel["targets"])
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    """No Grafana can be installed here; what it would ask is checked as rules instead."""
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert asked
    rules = [
        {"record": f"panel:{n}", "expr": expr.replace("$__rate_interval", "1m")}
        for n, expr in enumerate(asked)
    ]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr

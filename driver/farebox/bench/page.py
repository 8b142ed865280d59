"""A report as one self-contained page: no file beside it, no script, nothing fetched."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from string import Template
from typing import Final

import pygal
from pygal.style import CleanStyle

from farebox.bench.report import Point, Report

_PAGE: Final = Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>farebox bench $scenario</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
body { color: #222; background: #fff }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: #b00020 }
.good { color: #0a6b2d }
figure { margin: 2rem 0 }
svg { width: 100%; height: auto }
</style>
<h1>farebox bench $scenario</h1>
<p class="$class">$verdict</p>
$parts
</html>
"""
)


def page(report: Report) -> str:
    """The HTML."""
    wrong = [check for check in report.checks if not check.ok]
    parts = [
        _table(
            ("", "median", "least", "most", "ratio"),
            (
                (
                    line.name,
                    f"{line.rate:,.0f} {line.unit}",
                    f"{min(line.rates):,.0f}",
                    f"{max(line.rates):,.0f}",
                    "" if line.ratio is None else f"{line.ratio:.2f}",
                )
                for line in report.lines
            ),
        ),
        _plot("Rate over time", "seconds since the start", "tickets a second", report.over_time),
        _plot("Rate against table size", "tickets in the table", "tickets a second", report.by_size),
        _latency_plot(report),
        _table(
            ("latency, ms", "p50", "p95", "p99", "p99.9", "max"),
            (
                (name, *(f"{value.percentile(share) * 1e3:,.2f}" for share in (50, 95, 99, 99.9, 100)))
                for name, value in report.latencies.items()
            ),
        ),
        _table(("fact", ""), report.facts.items()),
        _table(("check", "expected", "found"), ((c.what, c.expected, c.found) for c in report.checks)),
        _table(("broken invariant", "", ""), ((v.invariant, v.subject, v.detail) for v in report.violations)),
        _table(("parameter", ""), report.parameters.items()),
        _table(
            ("measured on", ""),
            [(k, v) for k, v in report.environment.items() if k != "settings"]
            + list(report.environment.get("settings", {}).items()),
        ),
    ]
    return _PAGE.substitute(
        scenario=html.escape(report.scenario),
        **{"class": "good" if report.ok else "bad"},
        verdict="All invariants hold." if report.ok else f"WRONG: {len(wrong)} checks failed.",
        parts="\n".join(part for part in parts if part),
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = [
        "<tr>" + "".join(_cell("td", str(value), place) for place, value in enumerate(row)) + "</tr>"
        for row in rows
    ]
    if not body:
        return ""
    head = "".join(_cell("th", heading, place) for place, heading in enumerate(headings))
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _cell(tag: str, text: str, place: int) -> str:
    number = ' class="n"' if place and len(text) < 30 else ""
    return f"<{tag}{number}>{html.escape(text)}</{tag}>"


def _plot(title: str, x: str, y: str, lines: dict[str, list[Point]]) -> str:
    shown = {name: points for name, points in lines.items() if len(points) > 1}
    if not shown:
        return ""
    chart = _chart(title, x, y)
    for name, points in shown.items():
        chart.add(name, points)
    return _figure(chart)


def _latency_plot(report: Report) -> str:
    """As HdrHistogram's own plots have it: each step to the right is ten times as rare."""
    shown = {name: latencies.curve() for name, latencies in report.latencies.items() if latencies.count > 1}
    if not shown:
        return ""
    shares = (0, 90, 99, 99.9, 99.99, 99.999)
    chart = _chart("Latency by percentile", "percentile", "ms")
    chart.config.x_labels = list(range(len(shares)))
    chart.config.x_value_formatter = lambda value: f"{shares[round(value)]:g}"
    chart.config.xrange = (0, len(shares) - 1)
    for name, curve in shown.items():
        # 90 % lies at 1, 99 % at 2: the number of nines.
        chart.add(name, [(_nines(share), seconds * 1e3) for share, seconds in curve if share < 99.9995])
    return _figure(chart)


def _nines(share: float) -> float:
    return -math.log10(1 - share / 100)


def _shown(value: float) -> str:
    return f"{value:,.6g}"


def _chart(title: str, x: str, y: str) -> pygal.XY:
    return pygal.XY(
        title=title,
        x_title=x,
        y_title=y,
        style=CleanStyle,
        # Scripts of pygal would be fetched from elsewhere.
        js=(),
        dots_size=2,
        width=1000,
        height=450,
        include_x_axis=True,  # From zero: a slope is as steep as it is.
        margin_bottom=60,
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        truncate_legend=-1,
        x_value_formatter=_shown,
        value_formatter=_shown,
        disable_xml_declaration=True,
    )


def _figure(chart: pygal.XY) -> str:
    return f"<figure>{chart.render(is_unicode=True)}</figure>"

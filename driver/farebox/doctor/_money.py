# ruff: noqa: E501 - sentences and SQL stay in one piece
"""Checks of what Farebox is for: invariants, records, money without a ticket, codes, the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from farebox.doctor._finding import Context, Found, Level, Part, check


@check(
    "queue",
    why="Passengers wait for what stands in the queue; what died there needs a person to look at it.",
    good="the queue is short, nothing died in it",
    needs_schema=True,
)
def _queue(context: Context) -> Iterator[Found]:
    if not context.has_function("farebox.queue_metrics()"):
        return
    limits = context.thresholds
    row = context.row("select * from farebox.queue_metrics()")
    size, dead = row["size"], row["dead"]
    # A shard's workers are connected to the router: of them it knows nothing.
    is_shard = context.part is Part.SHARD
    workers = context.row(
        "select value::int as alive from farebox.metrics_server() where metric = 'farebox_workers'"
    )["alive"]
    if size > limits.queue_warning:
        yield (
            Level.PROBLEM if size > limits.queue_problem else Level.WARNING,
            f"{size:,} requests are queued" + ("" if is_shard else f", {workers} workers are connected"),
            "farebox worker   # start one more; they share the work",
        )
    elif size and not workers and not is_shard:
        yield Level.WARNING, f"{size:,} requests are queued and no worker is connected", "farebox worker"
    if dead:
        yield (
            Level.WARNING,
            f"{dead:,} dead requests are in the queue",
            "select * from farebox.list_dead_requests(); -- then retry_queued_requests or drop_queued_requests",
        )


@check(
    "unapplied payments",
    why="Each of them is a passenger who paid and has no ticket.",
    good="every payment has its ticket",
    needs_schema=True,
)
def _unapplied(context: Context) -> Iterator[Found]:
    rows = context.rows("select * from farebox.metrics_unapplied()")
    reasons: Counter[str] = Counter()  # of all shards, where this is a router
    for row in rows:
        if row["metric"] == "farebox_unapplied_payments":
            reasons[row["labels"]["reason"]] += int(row["value"])
    oldest = max(
        (row["value"] for row in rows if row["metric"] == "farebox_unapplied_oldest_seconds"), default=0.0
    )
    if not reasons:
        return
    shown = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    old = oldest >= context.thresholds.unapplied_problem_age.total_seconds()
    yield (
        Level.PROBLEM if old else Level.WARNING,
        f"payments without a ticket: {shown}; the oldest for {oldest / 86400:.1f} days",
        "farebox unapplied list; mend the cause (such as: farebox route list, farebox code add); farebox unapplied apply",
    )


@check(
    "payment codes",
    why="A spent code refuses passengers who have already paid.",
    good="no code is about to run out, none is past its end",
    needs_schema=True,
)
def _codes(context: Context) -> Iterator[Found]:
    values: Counter[str] = Counter()
    for row in context.rows("select * from farebox.metrics_codes()"):
        if row["labels"].keys() <= {"shard"}:
            values[row["metric"]] += int(row["value"])
    if nearly := values["farebox_payment_codes_nearly_spent"]:
        yield (
            Level.WARNING,
            f"{nearly:,} active payment codes are 90 % spent or more",
            ("on each shard: " if context.part is Part.ROUTER else "")
            + "select company_id, code, used_tickets, total_tickets from farebox.payment_codes where status = 'active' "
            "and used_tickets >= 0.9 * total_tickets; -- then raise total_tickets: farebox code add",
        )
    if overdue := values["farebox_payment_codes_overdue"]:
        yield (
            Level.WARNING,
            f"{overdue:,} payment codes are past their end and still called active",
            "farebox maintain --only expire   # let it run every minute",
            ("select farebox.expire_payment_codes(10000)",),
        )


@check(
    "records",
    why="A ticket without its transaction record is missing in the company's account.",
    good="every ticket has its transaction record",
    needs_schema=True,
    reads_everything=True,
)
def _records(context: Context) -> Iterator[Found]:
    missing = sum(row["invariant"] == "ticket_has_record" for row in context.violations)
    if missing:
        yield (
            Level.WARNING,
            f"{missing:,} tickets have no transaction record",
            "farebox records repair",
            ("select farebox.record_missing_transactions(10000)",),
        )


@check(
    "verify",
    why="These are the promises: one payment, one ticket; codes counted exactly; the money adds up.",
    good="all other invariants hold",
    needs_schema=True,
    reads_everything=True,
)
def _verify(context: Context) -> Iterator[Found]:
    counts: dict[str, int] = {}
    for row in context.violations:
        counts[row["invariant"]] = counts.get(row["invariant"], 0) + 1
    # Of a router: the check `shards` tells which; a claim is none of a ticket yet, and harms nobody.
    lost = counts.pop("shard_answers", 0)
    unused = counts.pop("claim_is_used", 0)
    if lost:
        yield (
            Level.WARNING,
            f"{lost} shards do not answer: nothing of theirs was checked",
            "farebox shards status",
        )
    if unused:
        yield (
            Level.WARNING,
            f"{unused:,} payments are claimed and nothing came of it",
            "nothing: the same company's retry completes them, another company takes them over (farebox verify names them)",
        )
    for invariant, count in sorted(counts.items()):
        if invariant != "ticket_has_record":
            yield (
                Level.PROBLEM,
                f"{invariant} is broken {count:,} times",
                "farebox verify   # names the rows; somebody wrote to the tables past the functions",
            )

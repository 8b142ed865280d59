"""A batch means its elements one after the other: compared, row by row, with a model in plain Python."""

import json
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, LiteralString
from uuid import UUID, uuid4

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.core.model import Code, Company, Expected, Model, Route, Unapplied
from tests.core.requests_pool import BATCHES, CODES, COMPANIES, ELEMENTS, ROUTES
from tests.core.support import Connection, Outcome, apply_unapplied, create, create_one
from tests.support.database import Database, Row

# On each of the two servers; the promise is 10,000 together.
_ELEMENTS_AT_LEAST = 5_000

_ALL = {
    *("created", "duplicate", "conflict", "transaction_id_invalid", "company_id_invalid"),
    *("transaction_id_unavailable", "route_id_invalid", "phone_invalid", "otp_invalid", "amount_invalid"),
    *(
        "commission_rate_invalid",
        "company_not_found",
        "company_suspended",
        "route_not_found",
        "route_inactive",
    ),
    *("code_not_found", "code_route_mismatch", "code_cancelled", "code_expired", "code_exhausted"),
}
_UNHEALTHY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_START = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """What the machine does not know of the database behind `Batches.conn`: it may be a router."""

    clear: Callable[[], object]
    set_clock: Callable[[datetime], object]
    place: Callable[[UUID | None, str], int] = lambda _company, _transaction: 0
    """As `Model.place`."""


class Batches(RuleBasedStateMachine):
    """Any sequence of batches, single payments and what administrators do in between."""

    conn: ClassVar[Connection]
    world: ClassVar["World"]
    elements: ClassVar[int]
    outcomes: ClassVar[dict[str, int]]

    @initialize(totals=st.lists(st.integers(1, 5), min_size=len(CODES), max_size=len(CODES)))
    def fill(self, totals: list[int]) -> None:
        self.world.clear()
        self.model = Model(_START, place=self.world.place)
        self._tick()
        self.ids: set[UUID] = set()
        for company, rate, suspended in zip(
            COMPANIES, ("0.05", "0.0333", "1"), (False, False, True), strict=False
        ):
            self.model.companies[company] = Company(Decimal(rate), suspended)
            self.conn.execute(
                "insert into farebox.companies (id, name, commission_rate, status) values (%s, 'C', %s, %s)",
                [company, rate, "suspended" if suspended else "active"],
            )
        for route, owner, inactive in zip(
            ROUTES, (0, 0, 0, 1, 2), (False, False, True, False, False), strict=False
        ):
            self.model.routes[route] = Route(COMPANIES[owner], inactive)
            self.conn.execute(
                "insert into farebox.routes (id, company_id, name, fare, status) values (%s, %s, 'R', 1, %s)",
                [route, COMPANIES[owner], "inactive" if inactive else "active"],
            )
        ends = _START + timedelta(seconds=5)
        places = [
            (0, None, None),
            (0, 0, None),
            (1, None, None),
            (0, None, ends),
            (0, None, None),
            (2, 4, None),
        ]
        for code, total, (owner, route_number, expires_at) in zip(CODES, totals, places, strict=True):
            only_route = None if route_number is None else ROUTES[route_number]
            code_id = uuid4()
            self.conn.execute(
                "insert into farebox.payment_codes"
                " (id, company_id, route_id, code, total_tickets, expires_at)"
                " values (%s, %s, %s, %s, %s, %s)",
                [code_id, COMPANIES[owner], only_route, code, total, expires_at],
            )
            self.model.codes[code] = Code(code_id, COMPANIES[owner], only_route, total, expires_at)

    # -- payments -----------------------------------------------------------------------------------------

    @rule(batch=BATCHES)
    def a_batch(self, batch: list[str]) -> None:
        self._tick()
        self._compare(create(self.conn, *batch), self.model.apply_all(batch))

    @rule(batch=BATCHES)
    def another_batch(self, batch: list[str]) -> None:
        self.a_batch(batch)

    @rule(element=ELEMENTS)
    def one_ticket(self, element: str) -> None:
        self._tick()
        self._compare([create_one(self.conn, element)], [self.model.apply(element)])

    @rule(limit=st.integers(1, 50), reason=st.sampled_from([None, None, "code_exhausted", "phone_invalid"]))
    def apply_kept_payments(self, limit: int, reason: str | None) -> None:
        self._tick()
        batch = self.model.open_payments(limit, reason)
        self._compare(apply_unapplied(self.conn, limit, reason), self.model.apply_all(batch))

    # -- administrators and time ----------------------------------------------------------------------------

    @rule(number=st.integers(0, 2), suspended=st.sampled_from([False, False, False, True]))
    def suspend_or_resume_a_company(self, number: int, suspended: bool) -> None:
        self.model.companies[COMPANIES[number]].suspended = suspended
        self.conn.execute(
            "update farebox.companies set status = %s where id = %s",
            ["suspended" if suspended else "active", COMPANIES[number]],
        )

    @rule(number=st.integers(0, 4), inactive=st.sampled_from([False, False, False, True]))
    def close_or_open_a_route(self, number: int, inactive: bool) -> None:
        self.model.routes[ROUTES[number]].inactive = inactive
        self.conn.execute(
            "update farebox.routes set status = %s where id = %s",
            ["inactive" if inactive else "active", ROUTES[number]],
        )

    @rule(
        code=st.sampled_from(CODES),
        total=st.none() | st.integers(1, 12),
        seconds=st.none() | st.integers(-3, 8),
    )
    def change_the_terms_of_a_code(self, code: str, total: int | None, seconds: int | None) -> None:
        self._tick()
        known = self.model.codes[code]
        terms: dict[str, Any] = {"company_id": str(known.company), "code": code}
        expires_at = known.expires_at
        if total is not None:
            terms["total_tickets"] = total
        if seconds is not None:
            expires_at = self.model.now + timedelta(seconds=seconds)
            terms["expires_at"] = expires_at.isoformat()
        [(outcome, reason)] = self.conn.execute(
            "select outcome, reason from farebox.issue_payment_codes(%s::json)", [json.dumps([terms])]
        )
        expected = known.change(known.total if total is None else total, expires_at, self.model.now)
        assert (reason or outcome) == expected
        self._same_state()

    @rule(code=st.sampled_from(CODES))
    def cancel_a_code(self, code: str) -> None:
        [(outcome,)] = self.conn.execute(
            "select outcome from farebox.cancel_payment_codes(json_build_array("
            "json_build_object('company_id', %s::text, 'code', %s::text)))",
            [str(self.model.codes[code].company), code],
        )
        assert outcome == self.model.cancel(code)
        self._same_state()

    @rule()
    def sweep_the_codes_whose_time_is_over(self) -> None:
        self._tick()
        [(expired,)] = self.conn.execute("select farebox.expire_payment_codes()")
        assert expired == self.model.expire()
        self._same_state()

    # -- comparisons ----------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Every call has its own second, so that first and last seen can be told apart."""
        self.model.now += timedelta(seconds=1)
        self.world.set_clock(self.model.now)

    def _compare(self, rows: list[Outcome], expected: list[Expected]) -> None:
        Batches.elements += len(expected)
        assert [row.ordinal for row in rows] == list(range(1, len(expected) + 1))
        for row, want in zip(rows, expected, strict=True):
            Batches.outcomes[row.said] = Batches.outcomes.get(row.said, 0) + 1
            if want.outcome == "created":
                assert want.ticket is not None
                assert row.ticket_id is not None
                assert row.ticket_id not in self.ids
                assert row.ticket_id.version == 7
                self.ids.add(row.ticket_id)
                want.ticket.id = row.ticket_id
            ticket_id = want.ticket.id if want.ticket is not None else None
            has_ticket = want.outcome in ("created", "duplicate")
            assert row == Outcome(
                row.ordinal,
                # what was no text may be told in any way
                row.transaction_id if want.given is None else want.given,
                want.outcome,
                want.reason,
                ticket_id if has_ticket else None,
                ticket_id if want.outcome == "conflict" else None,
                want.differing,
                has_ticket,
            )
        self._same_state()

    def _same_state(self) -> None:
        model = self.model
        self._same("select * from farebox.verify()", set())
        self._same(
            "select code, id, company_id, route_id, total_tickets, used_tickets, status, expires_at"
            " from farebox.payment_codes",
            {
                (name, c.id, c.company, c.route, c.total, c.used, c.status, c.expires_at)
                for name, c in model.codes.items()
            },
        )
        code_ids = {None: None} | {name: code.id for name, code in model.codes.items()}
        self._same(
            "select monime_transaction_id, id, company_id, route_id, passenger_phone, monime_otp,"
            " payment_code_id, amount, commission_rate, created_at from farebox.tickets"
            " where status = 'pending'",
            {
                (
                    key,
                    t.id,
                    t.company,
                    t.route,
                    t.phone,
                    t.otp,
                    code_ids[t.code],
                    t.amount,
                    t.rate,
                    t.created_at,
                )
                for key, t in model.tickets.items()
            },
        )
        self._same(
            "select ticket_id, company_id, amount, commission, net_amount, status from farebox.transactions",
            {
                (t.id, t.company, t.amount, t.commission, t.amount - t.commission, "completed")
                for t in model.tickets.values()
            },
        )
        self._same(
            "select monime_transaction_id, company_id, request::text, reason, first_seen_at, last_seen_at,"
            " attempts, ticket_id from farebox.unapplied_payments"
            " where (resolved_at is null) = (ticket_id is null)",
            {
                (key, u.company, u.request, u.reason, u.first_seen, u.last_seen, u.attempts, _ticket_id(u))
                for (key, _), u in model.unapplied.items()
            },
        )

    def _same(self, query: LiteralString, expected: set[Row]) -> None:
        rows = self.conn.execute(query).fetchall()
        assert set(rows) == expected
        assert len(rows) == len(expected)


def _ticket_id(kept: Unapplied) -> UUID | None:
    return kept.ticket.id if kept.ticket is not None else None


def test_batches_mean_their_elements_one_after_the_other(db: Database) -> None:
    """At least 10,000 elements, half of them on each server. A failure prints its seed, to repeat the run."""
    db.execute(
        "create or replace function farebox._now() returns timestamptz language sql volatile parallel safe"
        " as $$ select pg_catalog.current_setting('tests.now')::timestamptz $$"
    )
    with db.connect(autocommit=True) as Batches.conn:
        conn = Batches.conn
        Batches.world = World(
            lambda: conn.execute(
                "truncate farebox.companies, farebox.routes, farebox.payment_codes, farebox.tickets,"
                " farebox.transactions, farebox.unapplied_payments, farebox.company_logins"
            ),
            lambda now: conn.execute("select set_config('tests.now', %s, false)", [now.isoformat()]),
        )
        run_batches(_ELEMENTS_AT_LEAST)
    assert set(Batches.outcomes) == _ALL, "the strategy does not come to every outcome"


def run_batches(elements: int, *, examples: int = 20, shrink: bool = True) -> None:
    """Runs the machine until it has compared so many elements, `examples` worlds at a time; it is set up."""
    seed = int(os.environ.get("FAREBOX_TEST_SEED", secrets.randbits(32)))
    Batches.elements, Batches.outcomes = 0, {}
    while Batches.elements < elements:
        sys.stdout.write(f"FAREBOX_TEST_SEED={seed}, after {Batches.elements} elements\n")
        run_state_machine_as_test(
            hypothesis.seed(seed)(Batches),
            settings=hypothesis.settings(
                max_examples=examples,
                stateful_step_count=25,
                database=None,
                deadline=None,
                print_blob=True,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                # Batches are large, and 1 MB texts are larger.
                suppress_health_check=_UNHEALTHY,
            ),
        )
        seed += 1
    sys.stdout.write(f"{Batches.elements} elements: {Batches.outcomes}\n")

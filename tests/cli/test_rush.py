"""The generator of the demo: repeatable, and dirty in every way it promises."""

from collections import Counter

import pytest

from farebox.demo.catalogue import ASSUMED, COMPANIES
from farebox.demo.rush import Rush

REASONS = {
    *("transaction_id_invalid", "company_id_invalid", "transaction_id_unavailable", "route_id_invalid"),
    *("phone_invalid", "otp_invalid", "amount_invalid", "commission_rate_invalid", "company_not_found"),
    *("company_suspended", "route_not_found", "route_inactive", "code_not_found", "code_route_mismatch"),
    *("code_cancelled", "code_exhausted", "not_json", "not_utf8", None),
}


def test_the_same_seed_gives_the_same_lines() -> None:
    assert list(Rush(300, 7)) == list(Rush(300, 7))
    assert list(Rush(300, 7)) != list(Rush(300, 8))


def test_rushes_share_no_payment_and_no_code() -> None:
    first, second = Rush(300, 1), Rush(300, 2)
    assert not {spec.code for _, spec in first.codes} & {spec.code for _, spec in second.codes}
    assert not {line.data for line in first} & {line.data for line in second if line.reason != "not_json"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rush_of_the_default_size_has_every_kind_of_dirt(seed: int) -> None:
    seen = Counter((line.outcome, line.reason) for line in Rush(20_000, seed))
    assert {outcome for outcome, _ in seen} == {"created", "duplicate", "conflict", "rejected", "malformed"}
    assert {reason for _, reason in seen} == REASONS


@pytest.mark.parametrize("payments", [1, 2, 50])
def test_small_rushes_work(payments: int) -> None:
    for seed in range(30):
        assert len(list(Rush(payments, seed))) >= payments


def test_every_line_is_one_line() -> None:
    assert not any(b"\n" in line.data for line in Rush(5_000, 1))


def test_fares_are_plausible_and_say_where_they_come_from() -> None:
    routes = [route for company in COMPANIES for route in company.routes]
    assert all(500 <= route.fare <= 40_000 and route.source for route in routes)
    assert any(route.source == ASSUMED for route in routes)
    assert len({route.id for route in routes}) == len(routes)

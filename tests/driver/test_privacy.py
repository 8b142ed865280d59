"""A phone number, an OTP or a password in no log line, no repr, no exception, no event and no server log."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pydantic
import pytest

from farebox import (
    AsyncFarebox,
    ConfigurationError,
    DataError,
    Farebox,
    FareboxError,
    InvalidRequestError,
    TicketRequest,
    UsageError,
)
from farebox.events import Event
from tests.driver.conftest import Call, Shop, open_shop
from tests.support.database import Database
from tests.support.proxy import proxy_to

PHONE, OTP, PASSWORD = "+23279424242", "Kanari9Q", "kanarienvogel"
SECRETS = (PHONE, PHONE[1:], "79 42 42 42", OTP, PASSWORD)


def assert_clean(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


class Everything:
    """Gathers whatever the client says."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog
        self.texts: list[str] = []

    def add(self, thing: object) -> None:
        self.texts += [repr(thing), str(thing)]
        while isinstance(thing, BaseException):
            # What a tool that ignores `from None` would show.
            self.texts += ["".join(traceback.format_exception(thing, chain=False))]
            self.texts += [repr(thing), repr(vars(thing))]
            thing = thing.__cause__ or thing.__context__

    def hook(self, event: Event) -> None:
        self.add(event)

    def assert_clean(self, *, says: str) -> None:
        formatter = logging.Formatter()
        lines = [formatter.format(record) + repr(vars(record)) for record in self.caplog.records]
        assert any(says in line for line in lines), "the canary must be where it could sing"
        assert_clean("\n".join(self.texts + lines))


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[Everything]:
    # The logger's own level too: a command that ran in this process may have set it.
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="farebox"):
        yield Everything(caplog)


def secret_payment(shop: Shop, **fields: object) -> dict[str, Any]:
    return shop.payment(**({"passenger_phone": PHONE, "monime_otp": OTP} | fields))


def test_what_the_client_says_names_nobody(shop: Shop, connect: Call, everything: Everything) -> None:
    """Seen to fail with a phone in the repr of a ticket, with an OTP in that of a request."""
    client = connect(shop.dsn, on_event=everything.hook, backoff=0.001)
    payment = secret_payment(shop)
    for request in (
        payment,
        TicketRequest(**payment),
        payment | {"passenger_phone": "+232 79 42 42 42", "amount": 1},
        secret_payment(shop, route_id=str(shop.company)),
    ):
        outcome = client("create_ticket", request)
        everything.add(outcome)
        everything.add(request if isinstance(request, TicketRequest) else outcome)
    everything.add(client("create_tickets", [payment, secret_payment(shop)]))
    for ticket in client("tickets_by_phone", shop.company, PHONE):
        everything.add(ticket)
    for unapplied in client("list_unapplied_payments"):
        assert unapplied.request["passenger_phone"] == PHONE
        everything.add(unapplied)
    everything.assert_clean(says="conflict: payment")


def test_errors_name_nobody(shop: Shop, connect: Call, everything: Everything) -> None:
    client = connect(shop.dsn, on_event=everything.hook, backoff=0.001)
    # PostgreSQL quotes the whole row: "Failing row contains (…)".
    shop.on_tables("alter table farebox.tickets add constraint unlucky check (amount <> 13)")
    unlucky = secret_payment(shop, amount=13)
    for method, argument in (("create_ticket", unlucky), ("create_tickets", [unlucky])):
        with pytest.raises(DataError) as refused:
            client(method, argument)
        assert refused.value.sqlstate == "23514"
        everything.add(refused.value)
    # And here it would quote the document.
    broken = b'{"passenger_phone": "%s", "monime_otp": "%s", ]' % (PHONE.encode(), OTP.encode())
    with pytest.raises(DataError) as refused:
        client("create_ticket", broken, strict=False)
    everything.add(refused.value)
    for bad in (
        secret_payment(shop, amount=0),
        secret_payment(shop, passenger_phone=f"x{PHONE}", monime_otp=f"{OTP}!"),
        secret_payment(shop, passenger_phone=[PHONE], monime_otp={OTP: 1}),
    ):
        with pytest.raises(InvalidRequestError) as invalid:
            client("create_ticket", bad)
        everything.add(invalid.value)
        with pytest.raises(pydantic.ValidationError) as unpolished:
            TicketRequest.model_validate(bad)
        everything.texts += [str(unpolished.value), repr(unpolished.value)]
    with pytest.raises(UsageError) as no_unicode:
        client("tickets_by_phone", shop.company, f"{PHONE}\ud800")
    everything.add(no_unicode.value)
    shop.fail_tickets("40001", otp=OTP)
    with pytest.raises(FareboxError) as transient:
        client("create_ticket", secret_payment(shop))
    everything.add(transient.value)
    everything.assert_clean(says="attempt 1 failed")


async def test_a_forgotten_task_names_nobody(shop: Shop, everything: Everything) -> None:
    """asyncio reports what nobody asked for: pending tasks, exceptions nobody retrieved."""
    asyncio.get_running_loop().set_debug(True)
    async with AsyncFarebox(shop.dsn, on_event=everything.hook) as farebox:
        await farebox.create_ticket(secret_payment(shop))
        with shop.hold(blocker := secret_payment(shop)):
            task = asyncio.create_task(farebox.create_ticket(blocker))
            await asyncio.to_thread(shop.db.wait_for_blocked, 1)
            everything.add(task)
            everything.add(farebox)
            core = farebox._core  # pyright: ignore[reportPrivateUsage]
            assert core is not None
            for lane in core.primary._links:  # pyright: ignore[reportPrivateUsage]
                for statement in lane._in_flight:  # pyright: ignore[reportPrivateUsage]
                    everything.add(statement)
                    everything.add(statement.finish)
        everything.add(await task)
    everything.assert_clean(says="create_ticket")


def test_a_password_is_nowhere(shop: Shop, everything: Everything) -> None:
    login = urlsplit(shop.db.login("farebox_app"))
    user = login.username or ""
    dsn = urlunsplit(login._replace(netloc=f"{user}:{PASSWORD}@127.0.0.1:{login.port}"))
    spelled = f"host=127.0.0.1 port={login.port} user={user} password={PASSWORD} dbname={shop.db.name}"
    with proxy_to(dsn) as proxy:
        proxy.refuse()
        for wrong in (dsn, spelled, proxy.dsn(dsn), f"{dsn}?sslmode=nonsense"):
            farebox = Farebox(wrong, read_dsn=wrong, listen_dsn=wrong, on_event=everything.hook, backoff=0)
            everything.add(farebox)
            with farebox, pytest.raises(FareboxError) as raised:
                farebox.get_company(shop.company)
            everything.add(raised.value)
    for malformed in (
        f"postgresql://u:p@{PASSWORD}@127.0.0.1/x",
        f"host=127.0.0.1 {PASSWORD}",
        f"password='{PASSWORD}",
        f"host=127.0.0.1 password={PASSWORD}\udce4",
        f"postgresql://u:p/{PASSWORD}@127.0.0.1/x",
        f"postgresql://u:{PASSWORD}/p@127.0.0.1/x",
        f"postgresql://u:1/{PASSWORD}@127.0.0.1/x",
    ):
        with pytest.raises(ConfigurationError) as raised_early:
            Farebox(malformed)
        everything.add(raised_early.value)
    everything.assert_clean(says="refused")


@pytest.mark.parametrize("own_server", ["pg15", "pg18"], indirect=True)
def test_the_servers_log_names_nobody(own_db: Database, connect: Call) -> None:
    assert_the_servers_log_names_nobody(open_shop(own_db), connect)


def assert_the_servers_log_names_nobody(shop: Shop, connect: Call) -> None:
    """Whatever a client sends, and whatever goes wrong with it."""
    client = connect(shop.dsn, strict=False, backoff=0.001)
    payment = secret_payment(shop)
    requests = [
        payment,
        payment,
        payment | {"amount": 1},
        secret_payment(shop, passenger_phone=f"{PHONE}\0", monime_otp=f"{OTP}\ud800"),
        secret_payment(shop, amount="NaN", commission_rate=10**400),
        secret_payment(shop, company_id=PHONE, route_id=OTP),
        [PHONE, OTP],
        f"{PHONE}{OTP}",
    ]
    for request in requests:
        client("create_ticket", request)
    client("create_tickets", requests)
    client("apply_unapplied_payments")
    client("tickets_by_phone", shop.company, PHONE)
    shop.fail_tickets("40001", otp=OTP)
    with pytest.raises(FareboxError):
        client("create_ticket", secret_payment(shop))
    log = (shop.db.server.cluster.data_dir / "server.log").read_text()
    assert "on purpose" in log
    assert_clean(log)

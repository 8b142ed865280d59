"""The examples of driver/README.md, taken from it and run."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.cli.commands import start
from tests.driver.conftest import Shop

GUIDE = Path(__file__).parents[2] / "driver" / "README.md"

Example = Callable[..., dict[str, Any]]


def examples() -> dict[str, str]:
    blocks = re.findall(
        r"```python\n# example: (.+?)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
    return dict(blocks)


@pytest.fixture
def example(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Example:
    """`example(name, **names)` runs it with these names defined; returns what it defines."""
    monkeypatch.setenv("FAREBOX_DSN", shop.dsn)

    def run(name: str, **names: Any) -> dict[str, Any]:
        path = tmp_path / f"{name.replace(' ', '_')}.py"
        path.write_text(examples()[name], encoding="utf-8")
        return runpy.run_path(str(path), init_globals=names, run_name="example")

    return run


def test_all_examples_are_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'example("{name}"' in source for name in examples())
    fenced = GUIDE.read_text(encoding="utf-8").count("```python")
    assert len(examples()) == fenced


def test_ten_lines(shop: Shop, example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    code = [
        line for line in examples()["ten lines"].splitlines() if line and not line.strip().startswith("#")
    ]
    assert len(code) <= 10
    example("ten lines", payments=shop.payments(200))
    assert capsys.readouterr().out.count(" created ") == 200
    shop.assert_sound(200)


async def post(app: Any, path: str, body: object) -> tuple[int, dict[str, Any]]:
    """One request to an ASGI application, without a server."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "server": ("test", 80),
        "client": ("test", 1),
    }
    await app(scope, receive, send)
    answer = b"".join(cast(bytes, message.get("body", b"")) for message in sent[1:])
    return sent[0]["status"], json.loads(answer)


async def test_fastapi(shop: Shop, example: Example) -> None:
    app = example("fastapi")["app"]
    async with app.router.lifespan_context(app):
        payment = shop.payment()
        answers = await asyncio.gather(*(post(app, "/payments", payment) for _ in range(20)))
        masked = await post(app, "/payments", shop.payment(passenger_phone="+23276***222"))
    assert {status for status, _ in answers} == {200}
    assert sorted(answer["outcome"] for _, answer in answers) == ["created"] + ["duplicate"] * 19
    assert len({answer["ticket"] for _, answer in answers}) == 1
    assert masked == (200, {"outcome": "rejected", "ticket": None, "reason": "phone_invalid"})
    assert shop.db.value("select count(*) from farebox.unapplied_payments") == 1


def test_queue(shop: Shop, example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    worker = start("worker", "--flush-ms", 50, dsn=shop.dsn)
    try:
        example("queue", payments=[*shop.payments(20), shop.payment(monime_otp="?")])
    finally:
        worker.terminate()
        worker.communicate()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" wait")
    assert [line.split()[1] for line in lines[1:]] == ["created"] * 20 + ["rejected"]


def test_flask(shop: Shop, example: Example) -> None:
    names = example("flask")
    with names["farebox"] as farebox:
        farebox.create_tickets(shop.payments(3))
        client = names["app"].test_client()
        page = client.get(f"/companies/{shop.company}/pending").get_json()
        assert len(page["tickets"]) == 3
        assert client.get(f"/companies/{shop.route}/pending").status_code == 404


def test_script(
    shop: Shop,
    example: Example,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "payments.jsonl"
    payments = [*shop.payments(700), shop.payment(amount=0), shop.payment(monime_otp="1")]
    file.write_text("\n".join(json.dumps(payment) for payment in payments))
    monkeypatch.setattr(sys, "argv", ["script", str(file)])
    example("script")
    assert capsys.readouterr().out.splitlines() == [
        "701 rejected amount_invalid",
        "702 rejected otp_invalid",
    ]
    shop.assert_sound(700)


def test_metrics(shop: Shop, example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    example("metrics", payments=shop.payments(10))
    assert capsys.readouterr().out.startswith("{'created': 10}")

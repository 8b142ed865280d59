"""`farebox shards demo` (`make demo-shards`): a shard is killed in a rush, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.cli.commands import farebox
from tests.shards.support import Sharded


def test_the_demo_over_shards_ends_well(sharded_server: Sharded, monkeypatch: pytest.MonkeyPatch) -> None:
    """On servers of its own; `sharded_server` is what skips it where PL/Proxy is missing."""
    assert sharded_server.layout.has_registry
    monkeypatch.setattr("farebox.cli.shards_demo._DOWN_SECONDS", 0.1)
    ran = farebox("shards", "demo", "--payments", 400, "--seed", 7, "--json")
    assert ran.code == 0, ran.err
    assert (ran.document["ok"], ran.document["violations"]) == (True, 0)
    assert ran.document["tickets"] > 200

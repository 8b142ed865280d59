"""The tests of one database, gathered to be run against a router: all but those that are named, with why."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NewType

Reason = NewType("Reason", str)

OPEN_TRANSACTION = Reason(
    "a transaction stays open meanwhile: on a router it is over, the shards have committed"
)
INSIDE = Reason("it takes tables or functions apart, or looks into them: those are on the shards")
OWN_ROWS = Reason("companies' logins read their tables on their company's shard")
ELSEWHERE = Reason("it needs no database, or one without Farebox")


def suite(module: ModuleType, left_out: Mapping[str, Reason]) -> dict[str, Any]:
    """The tests of that module by name, but for those `left_out`, each of which must be there."""
    tests = {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_") and test.__module__ == module.__name__
    }
    unknown = left_out.keys() - tests.keys()
    assert not unknown, f"{module.__name__} has no {sorted(unknown)}"
    return {name: test for name, test in tests.items() if name not in left_out}

"""Ids that are made here, not in the database."""

from __future__ import annotations

import secrets
import time
from uuid import UUID


def uuid_v7() -> UUID:
    """A UUID as the database makes them: version 7, in the order of time."""
    time_and_version = time.time_ns() // 1_000_000 << 16 | 7 << 12 | secrets.randbits(12)
    return UUID(int=time_and_version << 64 | 2 << 62 | secrets.randbits(62))

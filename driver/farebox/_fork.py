"""What a forked child must not touch.

The connections, threads and event loops that it copied from its parent.
"""

from __future__ import annotations

import os
from typing import Any, Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """A client that can let go of everything inherited, and begin anew when it is used next."""

    def forget(self) -> object:
        """Let go; returns what was held."""
        ...

    def __hash__(self) -> int: ...


_watched: WeakSet[Any] = WeakSet()
# Never collected: a finaliser would write to sockets, or to the event loop's epoll set, that the parent
# still uses.
_inherited: list[object] = []


def watch(client: Forkable) -> None:
    """Have the client forget its connections in every child that is forked from now on."""
    _watched.add(client)


def _in_child() -> None:
    _inherited.extend(client.forget() for client in list(_watched))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

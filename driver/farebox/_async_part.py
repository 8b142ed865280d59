"""What the parts of the client for coroutines ask of the whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from farebox._core import Core
from farebox._queue import Patience
from farebox.calls import Call

R = TypeVar("R")


class AsyncPart(ABC):
    """A part of `AsyncFarebox`: methods of one subject."""

    _patience: Patience

    @abstractmethod
    def _live(self) -> Core: ...

    @abstractmethod
    def _is_strict(self, strict: bool | None) -> bool: ...

    @abstractmethod
    async def _run(self, call: Call[R], *arguments: object) -> list[R]: ...

"""One call of `create_ticket`: a coroutine to whoever looks, a future to asyncio."""

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Protocol, TypeVar

from farebox._queue import Caller, Patience
from farebox.errors import FareboxError
from farebox.models import TicketOutcome

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

_Future = asyncio.Future[Any]
_blocking: Any = vars(asyncio.Future)["_asyncio_future_blocking"]
_get_blocking, _set_blocking = _blocking.__get__, _blocking.__set__


class Seller(Protocol):
    """The client, as far as a call knows it."""

    def _begin(self, call: TicketCall) -> None:
        """Check the ticket and put the call in line. What it raises is what the call raises."""
        ...


class TicketCall(Caller):
    """A call that somebody waits for: a future, with what is left of the coroutine it was."""

    __slots__ = ("_seller", "patience", "strict")

    _seller: Seller | None  # until it begins
    patience: Patience
    strict: bool | None

    def succeed(self, result: object) -> None:
        """As any caller; but a task keeps what it has run, and need not keep the request."""
        self.payload = b""
        super().succeed(result)

    def close(self) -> None:
        """Forget it, if it has not ended yet."""
        self.cancel()


class TicketCoroutine(TicketCall, Coroutine[Any, Any, TicketOutcome]):
    """What the coroutine of an `async def` would be, for less.

    Like that it does nothing until somebody waits for it, can be made a task of, and tells when it was
    forgotten. But `await`, `gather`, `wait_for` and whatever else takes futures too find one: they wait for
    it as it is, where for a coroutine they need a task, with a context and a step in the loop's queue. Of
    fifty thousand calls at once these are most of what the client spends, and nearly all of what Python walks
    when it looks for cycles.

    It is a coroutine until somebody waits for it as a future: `asyncio.wait` takes none that it takes for
    coroutines. For the task that is made of it it remains one.
    """

    __slots__ = ()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seller: Seller,
        ticket: Any,
        *,
        strict: bool | None,
        patience: Patience,
    ) -> None:
        self._seller = seller
        self.strict = strict
        self.patience = patience
        super().__init__(loop, ticket=ticket)

    # -- as a future: whoever is about to wait asks whether it is one, and adds a callback ----------------

    @property
    def _asyncio_future_blocking(self) -> bool:
        # Whoever takes coroutines and futures asks for it, to know a future, and for a coroutine would
        # begin a task: `ensure_future` does nothing else.
        blocking: bool = _get_blocking(self)
        if self._seller is not None:
            self._begin()
        return blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        _set_blocking(self, value)

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """Begin, if this is the first who waits."""
        if self._seller is not None:
            self._begin()
        _Future.add_done_callback(self, fn, context=context)

    def _begin(self, *, of_a_task: bool = False) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # `run_until_complete` looks before it runs
            self.get_loop().call_soon_threadsafe(self._begin)
            return
        seller, self._seller = self._seller, None
        if seller is None or self.done():
            return
        if not of_a_task:
            self.__class__ = TicketCall  # type: ignore[assignment]
        if loop is not self.get_loop():
            # A coroutine belongs to no loop before it runs: it may have been made beside the one it is for.
            _Future.__init__(self, loop=loop)
        try:
            seller._begin(self)  # pyright: ignore[reportPrivateUsage]
        except FareboxError as error:
            self.fail(error)
        except Exception as error:  # the application's, from a mapping of its own making
            self.set_exception(error)

    def __del__(self) -> None:
        if self._seller is not None and not self.done():
            text = "a call of create_ticket was never awaited"
            warnings.warn(text, RuntimeWarning, stacklevel=2, source=self)
        _Future.__del__(self)

    # -- as a coroutine: a task sends None, waits for what comes, and sends None again --------------------

    cr_running = False
    cr_frame = None

    @property
    def cr_suspended(self) -> bool:
        """For `inspect.getcoroutinestate`."""
        return self._seller is None and not self.done()

    def send(self, _: None, /) -> Any:
        """The next step: the future to wait for, which is this, or the end."""
        if self.done():
            raise StopIteration(self.result())
        self._begin(of_a_task=True)
        _set_blocking(self, True)
        return self

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        """Whoever waited does not any more."""
        self.close()
        error: BaseException = typ() if val is None and isinstance(typ, type) else val or typ
        raise error if tb is None else error.with_traceback(tb)


def coroutine_function(function: F) -> F:
    """Have `inspect` and asyncio take a function that returns such calls for an `async def`.

    Frameworks ask before they call: whether to await it, or to send it to a thread.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    # All that is asked before 3.12. It changes nothing else: what makes a coroutine there is an instruction.
    code = function.__code__
    function.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)
    return function

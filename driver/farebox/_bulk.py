"""Long lists in chunks: checked, cut, encoded, and kept in a window of limited width. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from farebox.encoding import check_many, dump_many, dump_one, join
from farebox.errors import UsageError
from farebox.models import TicketRequest

T = TypeVar("T")

# Ten thousand requests of 1 MB must not become one message: PostgreSQL takes none of a gigabyte.
MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
_CHECKED_AT_ONCE: Final = 1000
_ENCODED_AT_ONCE: Final = 100

TicketInput = TicketRequest | Mapping[str, Any] | bytes
"""A request, a mapping that becomes one, or its JSON, ready made."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a list, ready to send.

    `elements` of them, the first one being number `first` of the list.
    """

    payload: bytes = field(repr=False)
    first: int
    elements: int


class Chunker:
    """Numbers, checks and encodes the parts of one list. Raises `InvalidRequestError` when strict."""

    def __init__(self, size: int, *, strict: bool) -> None:
        if not 1 <= size <= 10_000:
            raise UsageError("chunk_size must be between 1 and 10000")
        self._size = size
        self._strict = strict
        self._next = 1

    def check(self, tickets: Sequence[TicketInput]) -> Iterator[None]:
        """Check the whole list before any of it is sent, about a millisecond's worth at each step.

        `cut` need not do it again.
        """
        if self._strict:
            for start in range(0, len(tickets), _CHECKED_AT_ONCE):
                check_many(TicketRequest, tickets[start : start + _CHECKED_AT_ONCE], start + 1)
                yield
        self._strict = False

    def cut(self, tickets: Iterable[TicketInput]) -> Iterator[Chunk]:
        """The list in chunks, as far as it has been asked for."""
        iterator = iter(tickets)
        while part := list(islice(iterator, self._size)):
            yield from self._chunks(part)

    async def cut_stream(
        self, tickets: AsyncIterable[TicketInput] | Iterable[TicketInput]
    ) -> AsyncIterator[Chunk]:
        """The same from what may be an asynchronous iterable."""
        if not isinstance(tickets, AsyncIterable):
            for chunk in self.cut(tickets):
                yield chunk
            return
        part: list[TicketInput] = []
        async for ticket in tickets:
            part.append(ticket)
            if len(part) == self._size:
                for chunk in self._chunks(part):
                    yield chunk
                part = []
        for chunk in self._chunks(part):
            yield chunk

    def _chunks(self, part: list[TicketInput]) -> Iterator[Chunk]:
        """One, unless the requests are so large that it takes several."""
        if self._strict:
            check_many(TicketRequest, part, self._next)
        pieces: list[bytes] = []
        size = elements = 0
        for piece, number in self._pieces(part, self._next):
            if pieces and size + len(piece) > MAX_CHUNK_BYTES:
                yield self._chunk(pieces, elements)
                pieces, size, elements = [], 0, 0
            pieces.append(piece)
            size += len(piece)
            elements += number
        if pieces:
            yield self._chunk(pieces, elements)

    def _chunk(self, pieces: list[bytes], elements: int) -> Chunk:
        first, self._next = self._next, self._next + elements
        return Chunk(join(pieces), first, elements)

    @staticmethod
    def _pieces(part: list[TicketInput], first: int) -> Iterator[tuple[bytes, int]]:
        """Elements in JSON with commas between them, and how many: several at once unless they are large."""
        for start in range(0, len(part), _ENCODED_AT_ONCE):
            some = part[start : start + _ENCODED_AT_ONCE]
            piece = dump_many(TicketRequest, some, first + start)[1:-1]
            if len(piece) <= MAX_CHUNK_BYTES:
                yield piece, len(some)
            else:
                for ordinal, element in enumerate(some, first + start):
                    yield dump_one(TicketRequest, element, ordinal), 1


def portions(payloads: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """Encoded requests by so many at most, and no more than one message should carry."""
    portion: list[bytes] = []
    size = 0
    for payload in payloads:
        if portion and (len(portion) == most or size + len(payload) > MAX_CHUNK_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(payload)
        size += len(payload)
    if portion:
        yield portion


class Window(Generic[T]):
    """What is under way, oldest first; at most `width` at once."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._under_way: deque[T] = deque()

    def push(self, item: T) -> Iterator[T]:
        """Add one; yields the oldest when the window is full, to be waited for before the next is added."""
        self._under_way.append(item)
        if len(self._under_way) >= self._width:
            yield self._under_way.popleft()

    def drain(self) -> Iterator[T]:
        """What is left, oldest first."""
        while self._under_way:
            yield self._under_way.popleft()

"""The rows of an answer, and models made of them for little."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import repeat
from types import NoneType, UnionType
from typing import Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

from farebox.models import Row

R = TypeVar("R", bound=Row)

_PLAIN: Final = frozenset({NoneType, bool, int, str, Decimal, UUID, datetime})
_OF_PYDANTIC: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_new = object.__new__
_set = object.__setattr__


@dataclass(frozen=True, slots=True)
class Rows:
    """An answer: the names of its columns and the values row by row, as psycopg made them."""

    names: tuple[str, ...]
    values: list[tuple[Any, ...]] = field(repr=False)

    def column(self, name: str) -> list[Any]:
        """The values of a column; none when there is no such column."""
        if name not in self.names:
            return []
        place = self.names.index(name)
        return [row[place] for row in self.values]

    def as_dicts(self) -> list[dict[str, Any]]:
        """The rows by name."""
        return list(map(dict, map(zip, repeat(self.names), self.values)))


class Maker(Generic[R]):
    """Makes models of rows whose values are what the fields say already, which nearly all are.

    Whether they are is asked of whole columns; pydantic need not see them then. What it makes holds its
    fields in a dict of its own, which is half of a model's memory, and of what Python's search for cycles
    walks, when outcomes are kept by the ten thousand. What is set here lies in the model itself, until
    somebody asks for its `__dict__` (and up to Python 3.12, which knew how).
    """

    def __init__(self, model: type[R]) -> None:
        self._model = model
        self._names = tuple(model.model_fields)
        self._columns = [_allowed(field.annotation) for field in model.model_fields.values()]
        # All rows have the same columns, and models cannot be changed: one set of names serves them all.
        self._ending = (set(self._names), None, None)
        self._attributes = self._names + _OF_PYDANTIC
        # The class learns its attributes from the first ones made, and has to before pydantic makes any.
        self._make((None,) * len(self._names))

    def make(self, rows: Rows) -> list[R] | None:
        """The rows as models; None when some value needs pydantic's judgement."""
        if rows.names != self._names:
            return None
        for (kinds, values), column in zip(self._columns, zip(*rows.values, strict=True), strict=False):
            if not kinds.issuperset(map(type, column)) or (values and not values.issuperset(column)):
                return None
        return list(map(self._make, rows.values))

    def _make(self, row: tuple[Any, ...]) -> R:
        model = _new(self._model)
        any(map(_set, repeat(model), self._attributes, row + self._ending))
        return model


def renumber(models: Iterable[Any], ordinals: Iterable[int]) -> None:
    """Have models count the elements of something else than the statement they came from."""
    any(map(_set, models, repeat("ordinal"), ordinals))


def _allowed(annotation: Any) -> tuple[frozenset[type], frozenset[object]]:
    """The types of values that a field takes as they are; if it is an enumeration, the values too."""
    kinds: set[type] = set()
    values: set[object] = set()
    is_union = get_origin(annotation) in (Union, UnionType)
    for option in get_args(annotation) if is_union else (annotation,):
        if option in _PLAIN:
            kinds.add(option)
        elif get_origin(option) is Literal:
            values.update(get_args(option))
    kinds.update(map(type, values))
    if values and NoneType in kinds:
        values.add(None)
    return frozenset(kinds), frozenset(values)

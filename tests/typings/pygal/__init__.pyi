from collections.abc import Callable, Sequence
from typing import Any

class Config:
    x_labels: Sequence[float]
    x_value_formatter: Callable[[float], str]
    xrange: tuple[float, float]

class XY:
    config: Config
    def __init__(self, **config: Any) -> None: ...
    def add(self, title: str, values: Sequence[tuple[float, float]]) -> object: ...
    def render(self, is_unicode: bool = False) -> str: ...

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

class URL:
    @classmethod
    def create(
        cls,
        drivername: str,
        username: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = None,
        database: str | None = None,
    ) -> URL: ...

class MetaData:
    def __init__(self, *, schema: str | None = None) -> None: ...

class Table:
    c: Any
    def __init__(self, name: str, metadata: MetaData, *, autoload_with: Engine) -> None: ...

class Statement: ...

class Result:
    def all(self) -> Sequence[Any]: ...

class Connection:
    def execute(self, statement: Statement, parameters: Sequence[Mapping[str, object]]) -> Result: ...

class Engine:
    def begin(self) -> AbstractContextManager[Connection]: ...
    def dispose(self) -> None: ...

def create_engine(url: URL, *, pool_size: int) -> Engine: ...
def insert(table: Table) -> Statement: ...

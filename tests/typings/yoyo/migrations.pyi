from collections.abc import Iterator
from typing import Literal

from yoyo.backends.base import DatabaseBackend

class Migration:
    id: str
    hash: str
    path: str
    use_transactions: bool
    def load(self) -> None: ...
    def process_steps(
        self, backend: DatabaseBackend, direction: Literal["apply", "rollback"], force: bool = False
    ) -> None: ...

class MigrationList:
    def __iter__(self) -> Iterator[Migration]: ...
    def __len__(self) -> int: ...

def read_sql_migration(path: str) -> tuple[dict[str, str], str, list[str]]: ...
def get_migration_hash(migration_id: str) -> str: ...

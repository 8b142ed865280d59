from yoyo.migrations import Migration, MigrationList

default_migration_table: str

def read_migrations(*sources: str) -> MigrationList: ...

__all__ = ["Migration", "MigrationList", "default_migration_table", "read_migrations"]

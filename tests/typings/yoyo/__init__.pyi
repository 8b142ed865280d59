from yoyo.migrations import MigrationList

default_migration_table: str

def read_migrations(*sources: str) -> MigrationList: ...

__all__ = ["default_migration_table", "read_migrations"]

"""Companies over many databases: a router (PL/Proxy) and its shards. The guide is ``db/SHARDING.md``."""

from farebox.shards._check import Problem, ShardStatus, check, status, where
from farebox.shards._layout import PARTITIONS, Layout, Shard, ShardDsn, read_layout
from farebox.shards._migrate import Migrated, migrate_all
from farebox.shards._setup import add, init, make_reader

__all__ = [
    "PARTITIONS",
    "Layout",
    "Migrated",
    "Problem",
    "Shard",
    "ShardDsn",
    "ShardStatus",
    "add",
    "check",
    "init",
    "make_reader",
    "migrate_all",
    "read_layout",
    "status",
    "where",
]

"""Companies over many databases: a router (PL/Proxy) and its shards. The guide is ``db/SHARDING.md``."""

from farebox.shards._check import Problem, ShardStatus, check, moving, status, where
from farebox.shards._journey import MoveProgress, Unfinished
from farebox.shards._layout import PARTITIONS, Layout, Shard, ShardDsn, read_layout
from farebox.shards._migrate import Migrated, migrate_all
from farebox.shards._move import FENCE_SECONDS, abort, move
from farebox.shards._readers import forget_reader, make_reader
from farebox.shards._setup import add, init

__all__ = [
    "FENCE_SECONDS",
    "PARTITIONS",
    "Layout",
    "Migrated",
    "MoveProgress",
    "Problem",
    "Shard",
    "ShardDsn",
    "ShardStatus",
    "Unfinished",
    "abort",
    "add",
    "check",
    "forget_reader",
    "init",
    "make_reader",
    "migrate_all",
    "move",
    "moving",
    "read_layout",
    "status",
    "where",
]

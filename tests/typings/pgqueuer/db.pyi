from typing import Any

import asyncpg
import psycopg

class Driver: ...

class AsyncpgPoolDriver(Driver):
    def __init__(self, pool: asyncpg.Pool) -> None: ...

class PsycopgDriver(Driver):
    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None: ...

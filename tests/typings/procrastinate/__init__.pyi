from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

class PsycopgConnector:
    def __init__(self, *, conninfo: str, max_size: int) -> None: ...

class SchemaManager:
    async def apply_schema_async(self) -> None: ...

class Task:
    async def batch_defer_async(self, *arguments: Mapping[str, object]) -> list[int]: ...

class App:
    tasks: dict[str, Task]
    schema_manager: SchemaManager
    def __init__(self, *, connector: PsycopgConnector) -> None: ...
    def open_async(self) -> AbstractAsyncContextManager[App]: ...
    def task(self, *, name: str) -> Callable[[Callable[..., Awaitable[None]]], Task]: ...
    async def run_worker_async(
        self,
        *,
        concurrency: int,
        delete_jobs: str,
        install_signal_handlers: bool,
        fetch_job_polling_interval: float,
    ) -> None: ...

from collections.abc import Awaitable, Callable

from pgqueuer.models import Job
from pgqueuer.queries import Queries

Work = Callable[[Job], Awaitable[None]]

class QueueManager:
    def __init__(self, connection: Queries) -> None: ...
    def entrypoint(self, name: str) -> Callable[[Work], Work]: ...
    async def run(self, *, batch_size: int) -> None: ...

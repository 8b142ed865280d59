"""One connection in libpq's pipeline mode, driven by the event loop's readiness callbacks.

Each statement is followed by a sync of its own, so it is a transaction of its own and one failure
touches no other. psycopg's own pipeline holds the connection while it waits for an answer; here a
statement can leave at any moment, also while earlier answers are outstanding, which is what shared
batches need. Connecting, results and types remain psycopg's.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.types.json import set_json_loads

from farebox._dsn import Target
from farebox._rows import Rows
from farebox.calls import BACKEND_PID, REPLAYED, Call
from farebox.errors import (
    ConfigurationError,
    DatabaseError,
    FareboxError,
    TransientError,
    map_error,
    map_sqlstate,
    one_line,
)

_FATAL: Final = (b"FATAL", b"PANIC")
_CANCEL_SECONDS: Final = 5.0
# As long as connecting may take: a server that accepts a connection and then says nothing is no better
# than one that does not.
_FIRST_ANSWER_SECONDS: Final = 10.0
_BACKEND_PID: Final = Call("pg_backend_pid", (), int, sql=BACKEND_PID)
# A prepared statement that is not there (a pooler gave us another session), is there already, or whose
# result changed because the database was migrated: the same statement without preparing works.
_PREPARED_LOST: Final = frozenset({"26000", "42P05", "0A000"})


Answer = Callable[[], Rows | FareboxError]
"""Makes Python's values of an answer that has arrived, which costs more than to keep it."""


class NotReplayedError(TransientError):
    """A replica has not seen yet what the caller wants to see; `for_good`: it cannot tell whether it has."""

    for_good = False


class ForsakenError(TransientError):
    """The connection was given up for the sake of a statement that nobody waited for any more.

    Those behind it on the same connection did not fail by themselves.
    """


class Statement:
    """One call on its way: what to send, and whom to tell.

    With a `position` (bytes of write-ahead log) the server first says how far it has replayed, and an
    answer from before that position is replaced by `NotReplayedError`.
    """

    __slots__ = ("call", "finish", "parameters", "position", "prepared", "prepares", "sent_at")

    def __init__(
        self,
        call: Call[Any],
        parameters: Sequence[bytes | None],
        finish: Callable[[Statement, Answer | FareboxError], None],
        *,
        position: int | None = None,
    ) -> None:
        self.call = call
        self.parameters = parameters
        self.finish = finish
        self.position = position
        self.sent_at = 0.0
        self.prepared = False  # whether it relies on a prepared statement, which maybe it prepares itself
        self.prepares = False


class Lane:
    """An open connection that takes statements and answers them in order.

    `on_change` is called after answers arrived and after the connection was lost; never from inside `send`.
    """

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], *, on_change: Callable[[Lane], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._pg = connection.pgconn
        self.pooled = False  # whether a pooler is in between
        self._prepare = False
        self._prepared: set[str] = set()
        self._on_change = on_change
        self._in_flight: deque[Statement] = deque()
        self._answers: list[PGresult] = []
        self._failure: FareboxError | None = None
        self._writing = False
        self._ending: asyncio.Task[None] | None = None
        self._socket = self._pg.socket
        self.lost = False
        self.why: FareboxError | None = None
        self.backend_pid = self._pg.backend_pid
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._on_readable)

    @staticmethod
    async def open(target: Target, *, prepare: bool | None, on_change: Callable[[Lane], None]) -> Lane:
        """Connect. `prepare` None: prepared statements unless a pooler is in between.

        Raises `TransientError` or `ConfigurationError`.
        """
        if not psycopg.AsyncPipeline.is_supported():
            raise ConfigurationError(
                "libpq is older than 14 and has no pipeline mode", hint="psycopg[binary]"
            )
        failure: FareboxError
        try:
            connection = await connect(target)
            set_json_loads(_load_json, connection)
            lane = Lane(connection, on_change=on_change)
            lane.pooled = await lane._is_pooled()
            lane._prepare = not lane.pooled if prepare is None else prepare
            return lane
        except psycopg.Error as error:
            failure = map_error(error)
        except FareboxError as error:
            failure = error
        if not isinstance(failure, ConfigurationError):
            failure = TransientError(str(failure.args[0]), sqlstate=failure.sqlstate)
        raise failure

    async def _is_pooled(self) -> bool:
        """As the function `is_pooled`, within a time of its own. Raises an error, and closes, otherwise."""
        first: asyncio.Future[Answer | FareboxError] = self._loop.create_future()

        def finish(_: Statement, answer: Answer | FareboxError) -> None:
            if not first.done():
                first.set_result(answer)

        self.send(Statement(_BACKEND_PID, (), finish))
        failure = TransientError("the server accepts connections and does not answer")
        try:
            async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
                answer = await first
            rows = answer if isinstance(answer, FareboxError) else answer()
            if isinstance(rows, FareboxError):
                raise rows
            if self.why is not None:
                raise self.why
            return _BACKEND_PID.load(rows) != [self.backend_pid]
        except TimeoutError:
            pass
        except BaseException:
            self.close(failure)
            raise
        self.close(failure)
        raise failure

    @property
    def in_flight(self) -> int:
        """The number of statements without an answer yet."""
        return len(self._in_flight)

    def send(self, statement: Statement) -> None:
        """Put the statement on the wire.

        Its `finish` is called with an answer or an error, in any case, later.
        """
        statement.sent_at = self._loop.time()
        self._in_flight.append(statement)
        try:
            if statement.position is not None:
                self._pg.send_query_params(REPLAYED.sql.encode(), [], result_format=Format.BINARY)
            self._send_call(statement)
            self._pg.pipeline_sync()
        except psycopg.Error as error:
            self._loop.call_soon(self._lose, _lost_by(error))
            return
        self._flush()

    def _send_call(self, statement: Statement) -> None:
        call = statement.call
        statement.prepared = self._prepare
        if not self._prepare:
            self._pg.send_query_params(call.sql.encode(), statement.parameters, result_format=Format.BINARY)
            return
        name = call.function.encode()
        if call.function not in self._prepared:
            self._prepared.add(call.function)
            statement.prepares = True
            self._pg.send_prepare(name, call.sql.encode())
        self._pg.send_query_prepared(name, statement.parameters, result_format=Format.BINARY)

    def poll(self) -> None:
        """Take the answers that have arrived without waiting for the event loop to say so."""
        if self._in_flight and not self.lost:
            self._on_readable()

    def abort(self) -> None:
        """Give the connection up.

        Nobody waits for the oldest answer any more. Asks the server to cancel.
        """
        if not self.lost:
            self._lose(ForsakenError("the server did not answer in time"), cancel=True)

    def close(self, why: FareboxError) -> None:
        """Close now; statements in flight end in `why`."""
        if not self.lost:
            self._lose(why)

    def abandon(self) -> None:
        """Disconnect without a word to anybody: the event loop is closed and nobody waits."""
        self.lost = True
        self._pg.finish()

    def _flush(self) -> None:
        try:
            pending = self._pg.flush()
        except psycopg.Error as error:
            self._loop.call_soon(self._lose, _lost_by(error))
            return
        if pending and not self._writing:
            self._loop.add_writer(self._socket, self._flush)
        elif not pending and self._writing:
            self._loop.remove_writer(self._socket)
        self._writing = bool(pending)

    def _on_readable(self) -> None:
        try:
            # Twice: with TLS, what the first read left inside the TLS library would not make the socket
            # readable.
            for _ in range(2):
                self._pg.consume_input()
                if self._take_answers():
                    break
        except psycopg.Error as error:
            self._take_answers()
            self._lose(_lost_by(error))
            return
        if self._pg.status == ConnStatus.BAD:
            self._lose(TransientError("the connection was lost", sqlstate="08006"))
            return
        if self._writing:
            self._flush()
        self._on_change(self)

    def _take_answers(self) -> bool:
        """Hand out all answers that have arrived in full; whether nothing is outstanding any more."""
        nothing = 0
        while self._in_flight and not self._pg.is_busy():
            result = self._pg.get_result()
            if result is None:
                # One None ends each command's results; two in a row mean that libpq has nothing left.
                nothing += 1
                if nothing > 1:
                    break
                continue
            nothing = 0
            status = result.status
            if status == ExecStatus.TUPLES_OK:
                self._answers.append(result)
            elif status == ExecStatus.COMMAND_OK:
                self._in_flight[0].prepares = False  # It is prepared, whatever becomes of the call.
            elif status == ExecStatus.FATAL_ERROR:
                self._failure = self._failure or _failure_in(result)
            elif status == ExecStatus.PIPELINE_SYNC:
                self._settle()
        return not self._in_flight

    def _settle(self) -> None:
        """The oldest statement is answered."""
        answers, failure = self._answers, self._failure
        self._answers, self._failure = [], None
        statement = self._in_flight.popleft()
        if failure is not None:
            if statement.prepares:
                self._prepared.discard(statement.call.function)
            if statement.prepared and failure.sqlstate in _PREPARED_LOST:
                # The ones sent behind it, which fail in the same way, come here too.
                self._prepare = False
                self.send(statement)
                return
            statement.finish(statement, failure)
            return
        if statement.position is not None:
            rows = self._reader(answers[0])()
            if isinstance(rows, Rows) and (replayed := REPLAYED.load(rows)[0]) < statement.position:
                behind = NotReplayedError("the replica is behind")
                behind.for_good = replayed < 0
                statement.finish(statement, behind)
                return
        statement.finish(statement, self._reader(answers[-1]))

    def _reader(self, result: PGresult) -> Answer:
        # What asks the connection (for its encoding) is done now: it may be gone when somebody reads.
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result)
        names = tuple((result.fname(column) or b"").decode() for column in range(result.nfields))

        def read() -> Rows | FareboxError:
            try:
                return Rows(names, transformer.load_rows(0, result.ntuples, tuple))
            except (psycopg.Error, ValueError):
                # Such as the timestamp 'infinity'.
                return DatabaseError("the answer holds a value that Python cannot represent")

        return read

    def _lose(self, failure: FareboxError, cancel: bool = False) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._socket)
        if self._writing:
            self._loop.remove_writer(self._socket)
        if cancel:
            self._ending = self._loop.create_task(self._cancel())
        else:
            self._pg.finish()
        # The server's last words (57P01, …) say more than the broken socket; what it said of the data of
        # one statement says nothing about the others.
        if isinstance(self._failure, TransientError | ConfigurationError):
            failure = self._failure
        self.why = failure
        statements, self._in_flight = self._in_flight, deque()
        for statement in statements:
            statement.finish(statement, failure)
        self._on_change(self)

    async def _cancel(self) -> None:
        try:
            await self._connection.cancel_safe(timeout=_CANCEL_SECONDS)
        except psycopg.Error:
            pass  # A courtesy to the server; the connection goes in any case.
        finally:
            self._pg.finish()


async def connect(target: Target, application_name: str | None = None) -> psycopg.AsyncConnection[Any]:
    """A connection of psycopg's, in autocommit. When this is cancelled, nothing half open is left behind.

    Raises what psycopg raises.
    """
    try:
        return await psycopg.AsyncConnection.connect(
            target.conninfo, autocommit=True, application_name=application_name
        )
    except asyncio.CancelledError as cancelled:
        # psycopg's frames own the half-open connection and the traceback owns the frames: in a cancelled
        # task that somebody still refers to, the server would wait for the password for a minute, and
        # every DROP DATABASE with it.
        raise cancelled.with_traceback(None)  # noqa: B904


async def is_pooled(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether a pooler is in between: it hands out process ids of its own making for cancel requests."""
    cursor = await connection.execute(BACKEND_PID)
    row = await cursor.fetchone()
    return row is None or row[0] != connection.pgconn.backend_pid


def _failure_in(result: PGresult) -> FareboxError:
    def text(field: DiagnosticField) -> str | None:
        value = result.error_field(field)
        return None if value is None else value.decode(errors="replace")

    # An error without SQLSTATE is libpq's own: the connection broke.
    constraint = text(DiagnosticField.CONSTRAINT_NAME)
    message = text(DiagnosticField.MESSAGE_PRIMARY) or " ".join(result.get_error_message().split())
    failure = map_sqlstate(
        text(DiagnosticField.SQLSTATE) or "08006",
        message,
        detail=text(DiagnosticField.MESSAGE_DETAIL),
        hint=text(DiagnosticField.MESSAGE_HINT),
        constraint=constraint and f"{constraint} of {text(DiagnosticField.TABLE_NAME)}",
    )
    fatal = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) in _FATAL
    if fatal and not isinstance(failure, ConfigurationError):
        # The session ended, which is not the statement's fault: another one will do.
        return TransientError(message, sqlstate=failure.sqlstate)
    return failure


def _lost_by(error: psycopg.Error) -> TransientError:
    return TransientError(f"the connection was lost: {one_line(error)}", sqlstate="08006")


def _load_json(data: str | bytes) -> Any:
    """Requests are kept as they came.

    Numbers of 5,000 digits and nesting of 5,000 levels come back as text.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace") if isinstance(data, bytes) else data

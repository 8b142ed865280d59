"""One small tree of exceptions, keyed by SQLSTATE.

Texts and attributes never carry a phone number, an OTP or a password: PostgreSQL quotes whole rows and
JSON documents in the DETAIL and CONTEXT of data errors, so of a server error only the primary message of
harmless classes survives, and the original exception is not chained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg

__all__ = [
    "BusyError",
    "ClosedError",
    "ConfigurationError",
    "DataError",
    "DatabaseError",
    "DeadlineExceededError",
    "FareboxError",
    "FieldError",
    "InvalidRequestError",
    "MigrationError",
    "NotMigratedError",
    "PermissionDeniedError",
    "ServerError",
    "TransientError",
    "UsageError",
    "map_error",
    "map_sqlstate",
]


class FareboxError(Exception):
    """Root of all errors of Farebox.

    `sqlstate` is the five-character code where the server gave one; `detail` and `hint` are sentences or
    None.
    """

    def __init__(
        self, message: str, *, sqlstate: str | None = None, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        text = str(self.args[0])
        if self.sqlstate is not None:
            text = f"{text} [{self.sqlstate}]"
        if self.hint is not None:
            text = f"{text} (hint: {self.hint})"
        return text


class UsageError(FareboxError):
    """The call itself was wrong: SQLSTATE class TK (batch or argument misuse), or misuse of the client."""


class ClosedError(UsageError):
    """The client was closed, or was closed while the call waited."""


class DataError(FareboxError):
    """The server refused the data (SQLSTATE classes 22 and 23). Never retried."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field.

    `ordinal` counts the elements of the batch from 1, `field` is the name, `problem` a sentence.
    """

    ordinal: int
    field: str
    problem: str


class InvalidRequestError(DataError):
    """A request failed validation before anything was sent.

    `errors` names the fields, never their values.
    """

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        shown = "; ".join(f"element {e.ordinal}: {e.field}: {e.problem}" for e in self.errors[:5])
        more = len(self.errors) - 5
        super().__init__(f"invalid request: {shown}" + (f"; and {more} more" if more > 0 else ""))

    def __reduce__(self) -> tuple[type[InvalidRequestError], tuple[tuple[FieldError, ...]]]:
        return type(self), (self.errors,)


class TransientError(FareboxError):
    """The same call may succeed a moment later.

    Serialisation, deadlock, lock time-out, lost or refused connection.
    """


def lost_shard() -> TransientError:
    """What a caller is told whose company's shard did not answer, however often it was asked."""
    return TransientError("a shard is not available", hint="the same call again is safe; others go on")


class DeadlineExceededError(TransientError):
    """The call's deadline passed.

    Whether it took effect is unknown; the same call again is safe and gives the answer.
    """


class BusyError(TransientError):
    """Too many calls wait already and the client was told to raise rather than to wait.

    Nothing was sent.
    """


class PermissionDeniedError(FareboxError):
    """The login lacks a privilege (SQLSTATE 42501)."""


class NotMigratedError(FareboxError):
    """The schema, a function or a table is missing (3F000, 42883, 42P01)."""


class ConfigurationError(FareboxError):
    """The connection settings are wrong.

    Bad DSN, unknown database, failed authentication, too old a library.
    """


class MigrationError(FareboxError):
    """A migration could not be applied or rolled back."""


class ServerError(FareboxError):
    """The embedded server could not be started or stopped."""


class DatabaseError(FareboxError):
    """The server raised something that fits no other class (for instance 57014, a statement time-out)."""


_TRANSIENT_CODES = frozenset(
    {"40001", "40P01", "57P01", "57P02", "57P03", "53300", "55P03"}
    # Not in the contract's list, but the same in kind: a connection that ended up on a demoted or
    # read-only server, and a session ended for being idle. Both are healed by a new connection.
    | {"25006", "57P05"}
)
_NOT_MIGRATED_CODES = frozenset({"3F000", "42883", "42P01"})
# libpq gives no SQLSTATE for a refused connection, so what will not heal by itself is known by its text
# only; where the server speaks another language the error stays transient, which costs two more attempts
# and nothing else.
_CONFIGURATION_TEXTS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    " does not exist",
    "is not permitted to log in",
    "certificate verify failed",
    "server does not support SSL",
    "no such database",
    "no such user",
    ' value: "',  # libpq's "invalid sslmode value", "invalid channel_binding value", …
)


def map_sqlstate(
    sqlstate: str | None,
    message: str,
    *,
    detail: str | None = None,
    hint: str | None = None,
    constraint: str | None = None,
) -> FareboxError:
    """The exception for a server error with that `sqlstate` (None: the connection failed before that).

    `constraint` is the name of one that the data broke.
    """
    kind: type[FareboxError]
    if sqlstate is None:
        if any(text in message for text in _CONFIGURATION_TEXTS):
            return ConfigurationError(message)
        return TransientError(message)
    if sqlstate.startswith("TK"):
        return UsageError(message, sqlstate=sqlstate, detail=detail, hint=hint)
    if sqlstate.startswith(("22", "23")):
        # The message of a data error can quote the value; its code and the constraint's name do not.
        broken = f"They break the constraint {constraint}." if constraint else None
        return DataError("the database refused the data", sqlstate=sqlstate, hint=broken)
    if sqlstate.startswith("08") or sqlstate in _TRANSIENT_CODES:
        kind = TransientError
    elif sqlstate == "42501":
        kind = PermissionDeniedError
    elif sqlstate in _NOT_MIGRATED_CODES:
        return NotMigratedError(
            message, sqlstate=sqlstate, hint="run `farebox migrate` on this database first"
        )
    elif sqlstate.startswith("28") or sqlstate == "3D000":
        kind = ConfigurationError
    else:
        kind = DatabaseError
    return kind(message, sqlstate=sqlstate)


def map_error(error: psycopg.Error) -> FareboxError:
    """The exception of this tree for one of psycopg's.

    Raise it `from None`, for the original quotes data.
    """
    diag = error.diag
    sqlstate = error.sqlstate
    if sqlstate is None and isinstance(error, psycopg.ProgrammingError | psycopg.NotSupportedError):
        # Raised by psycopg itself: a malformed DSN (whose text would quote the password) or a misuse of
        # its API.
        return ConfigurationError("the connection settings are not valid")
    message = diag.message_primary or (one_line(error) if sqlstate is None else type(error).__name__)
    constraint = f"{diag.constraint_name} of {diag.table_name}" if diag.constraint_name else None
    return map_sqlstate(
        sqlstate, message, detail=diag.message_detail, hint=diag.message_hint, constraint=constraint
    )


def one_line(error: psycopg.Error) -> str:
    """What libpq says, often over several lines, on one: it goes into log lines."""
    return " ".join(str(error).split())

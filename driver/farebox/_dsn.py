"""Connection strings: parsed once, given safe defaults, and shown without their password."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farebox.errors import ConfigurationError

# Each only where the DSN does not say otherwise. Nothing here needs `options`, which PgBouncer before
# 1.20 refuses: the client keeps no state in a session at all.
_DEFAULTS: Final[dict[str, str | int]] = {
    "application_name": "farebox",
    "client_encoding": "utf8",
    "connect_timeout": 10,
    # A peer that vanished without a word is noticed in about half a minute rather than in two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


class Target:
    """Where to connect; `conninfo` carries the password, `str()` and `repr()` do not.

    Raises `ConfigurationError` for a malformed DSN, without quoting it.
    """

    __slots__ = ("_shown", "conninfo", "several_hosts")

    def __init__(self, dsn: str, *, spread: bool = False) -> None:
        """`spread`.

        With several hosts, try them in random order (replicas) rather than in the order given.
        """
        try:
            given = conninfo_to_dict(dsn)
        except psycopg.Error:
            given = None
        if given is None:
            raise ConfigurationError(
                "the DSN is not valid", hint="postgresql://user:password@host:port/dbname"
            )
        host = str(given.get("host") or "")
        if "@" in host:
            # Else the rest of the password would show up in "failed to resolve host".
            raise ConfigurationError(
                "the host name in the DSN contains '@'", hint="percent-encode '@' in the password as %40"
            )
        settings = _DEFAULTS | {key: value for key, value in given.items() if value is not None}
        self.several_hosts = "," in host or "," in str(given.get("hostaddr") or "")
        if spread and self.several_hosts:
            settings.setdefault("load_balance_hosts", "random")
        self.conninfo = make_conninfo("", **settings)
        port = f":{given['port']}" if given.get("port") else ""
        self._shown = f"postgresql://{host}{port}/{given.get('dbname') or ''}"

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Target({self._shown!r})"

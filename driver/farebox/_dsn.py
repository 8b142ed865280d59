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

    __slots__ = ("_shown", "conninfo")

    def __init__(self, dsn: str, *, spread: bool = False) -> None:
        """With `spread`, several hosts are tried in random order (replicas), not in the order given.

        Else the first of them that writes is meant: after a failover that may be another one.
        """
        try:
            given = conninfo_to_dict(dsn)
        except (psycopg.Error, ValueError, TypeError, AttributeError):
            given = None  # Also for None, and for what has no UTF-8: Python's error would quote all of it.
        if given is None:
            raise ConfigurationError(
                "the DSN is not valid", hint="postgresql://user:password@host:port/dbname"
            )
        host, port = str(given.get("host") or ""), str(given.get("port") or "")
        dbname = str(given.get("dbname") or "")
        # A host of its own may begin with '@': an abstract Unix socket.
        strange = any("@" in one.removeprefix("@") for one in host.split(",")) or "@" in dbname
        if strange or (port and not port.replace(",", "").isdigit()):
            # An '@' or '/' in a password cuts the URI in the wrong places, and the rest of the password
            # would show up as the name of a host or a database.
            raise ConfigurationError(
                "the DSN names no proper host, port and database",
                hint="percent-encode special characters in the password: @ is %40, / is %2F",
            )
        settings = _DEFAULTS | {key: value for key, value in given.items() if value is not None}
        settings["client_encoding"] = "utf8"  # in which requests are sent, whatever else a session has
        if "," in host or "," in str(given.get("hostaddr") or ""):
            if spread:
                settings.setdefault("load_balance_hosts", "random")
            else:
                settings.setdefault("target_session_attrs", "read-write")
        self.conninfo = make_conninfo("", **settings)
        self._shown = f"postgresql://{host}{':' if port else ''}{port}/{dbname}"

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Target({self._shown!r})"

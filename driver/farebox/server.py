"""The embedded server: a real PostgreSQL from a wheel, for trying Farebox out and for small installations.

``farebox up`` is :meth:`EmbeddedServer.up`. The server outlives the command that started it, keeps its port
and its password, and listens on the loopback address only. A password is asked for on every way in, because
other users of the machine can reach that address too; it stands in a file that only the owner may read, and
the DSN names that file instead of carrying the secret.
"""

import contextlib
import fcntl
import os
import secrets
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from farebox._cluster import SUPERUSER, Cluster, free_port, is_free, physical_memory
from farebox._installation import Installation, embedded_installation, require_way_in, service_account
from farebox.errors import ConfigurationError, ServerError

DATABASE = "farebox"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What ``farebox status`` tells about the embedded server.

    ``pid``, ``port`` and ``dsn`` are None unless it is running; ``version`` is the major version that made
    the data folder, None before the first ``up``.
    """

    running: bool
    data_dir: Path
    version: str | None
    pid: int | None
    port: int | None
    dsn: str | None


def default_home() -> Path:
    """The folder that holds the embedded server's data.

    ``FAREBOX_HOME`` if set, else ``farebox`` in the user's data folder. Root's own data folder is closed to
    the account that has to run the server, so root's default is /var/lib/farebox.
    """
    if configured := os.environ.get("FAREBOX_HOME"):
        return Path(configured).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/farebox")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "farebox"
    data_home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share") / "farebox"


class EmbeddedServer:
    """The embedded PostgreSQL of one data folder. Nothing happens before a method is called.

    ``data_dir`` is the folder for the server's files (default: ``pgdata`` in :func:`default_home`). Beside it
    lie ``<name>.pgpass``, the password file, and ``<name>.lock``, by which concurrent calls wait for each
    other.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self.data_dir = (data_dir or default_home() / "pgdata").expanduser().absolute()
        self._passfile = self.data_dir.with_name(f"{self.data_dir.name}.pgpass")

    def up(self) -> str:
        """Creates and starts the server as far as needed, with a database ``farebox``; returns its DSN.

        Calling it again changes nothing. Raises ServerError when the wheel is missing, the data folder is of
        another major version or is something else, or the server does not start (the message says why).
        """
        with self._locked():
            cluster = self._cluster()
            if cluster.postmaster() is None:
                self._check(cluster)
                self._start(cluster)
            dsn = self.dsn()
            if dsn is None:
                raise ServerError(f"the server in {self.data_dir} is starting or stopping; try again")
            _ensure_database(dsn)
            return dsn

    def down(self) -> bool:
        """Stops the server and waits until all is on disk; False if it was not running."""
        if not self.data_dir.exists():
            return False
        with self._locked():
            return self._cluster().stop()

    def dsn(self) -> str | None:
        """The DSN of database ``farebox`` as superuser; None unless the server runs and accepts connections.

        Raises ServerError when it runs but the caller may not read its password.
        """
        postmaster = self._onlooker().postmaster()
        if postmaster is None or not postmaster.ready:
            return None
        self._read_passfile()
        return f"postgresql://{SUPERUSER}@{HOST}:{postmaster.port}/{DATABASE}?passfile={quote(str(self._passfile))}"

    def status(self) -> ServerStatus:
        """Whether the server runs, and where."""
        cluster = self._onlooker()
        postmaster = cluster.postmaster()
        return ServerStatus(
            running=postmaster is not None,
            data_dir=self.data_dir,
            version=cluster.version_on_disk,
            pid=postmaster.pid if postmaster else None,
            port=postmaster.port if postmaster else None,
            dsn=self.dsn(),
        )

    def _cluster(self) -> Cluster:
        account = service_account(self.data_dir)
        require_way_in(account, self.data_dir.parent)
        return Cluster(self.data_dir, embedded_installation(self.data_dir.parent, account))

    def _onlooker(self) -> Cluster:
        """For looking only: works without the wheel, because no program is run."""
        return Cluster(self.data_dir, Installation(Path(), None))

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        lock = self.data_dir.with_name(f"{self.data_dir.name}.lock")
        try:
            new = [folder for folder in lock.parents if not folder.exists()]
            lock.parent.mkdir(parents=True, exist_ok=True)
            for folder in new:
                # Whatever the umask: the account that runs root's server has to get through.
                folder.chmod(0o700 if service_account() is None else 0o755)
            handle = lock.open("a")
        except OSError as error:
            raise ServerError(f"cannot use {lock.parent}: {error.strerror}", hint=_HOME_HINT) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _check(self, cluster: Cluster) -> None:
        made_by = cluster.version_on_disk
        if made_by is None:
            if self.data_dir.exists() and any(self.data_dir.iterdir()):
                raise ServerError(
                    f"{self.data_dir} is not empty and holds no PostgreSQL data", hint=_HOME_HINT
                )
        elif made_by != str(cluster.installation.major):
            raise ServerError(
                f"{self.data_dir} was made by PostgreSQL {made_by};"
                f" the installed server is {cluster.installation.version}",
                hint=f"Dump it under PostgreSQL {made_by}, move the folder away, 'farebox up', restore.",
            )

    def _start(self, cluster: Cluster) -> None:
        try:
            port, password = self._read_passfile()
        except FileNotFoundError:
            port, password = free_port(), secrets.token_urlsafe(24)
            self._write_passfile(port, password)
            if cluster.version_on_disk is not None:
                cluster.set_password(password)
        if cluster.version_on_disk is None:
            if self.data_dir.exists():
                self.data_dir.rmdir()
            cluster.create(password)
        for attempt in range(5):
            if attempt > 0 or not is_free(port):
                port = free_port()
                self._write_passfile(port, password)
            cluster.configure(server_settings(port, cluster.socket_folder))
            try:
                cluster.start()
                return
            except ServerError as error:
                if "ddress already in use" not in str(error) or attempt == 4:
                    raise

    def _read_passfile(self) -> tuple[int, str]:
        try:
            _, port, _, _, password = self._passfile.read_text().strip().split(":")
            return int(port), password
        except FileNotFoundError:
            if self._onlooker().postmaster() is None:
                raise
            raise ServerError(
                f"{self._passfile} is gone",
                hint="Call 'farebox down': the next 'farebox up' sets a new password.",
            ) from None
        except PermissionError as error:
            raise ServerError(f"the embedded server belongs to another user: {self._passfile}") from error
        except ValueError as error:
            raise ServerError(
                f"{self._passfile} is damaged",
                hint="Call 'farebox down' and remove the file: the next 'farebox up' sets a new password.",
            ) from error

    def _write_passfile(self, port: int, password: str) -> None:
        new = self._passfile.with_name(f"{self._passfile.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            # Any host name: the same password holds on the socket and on the loopback address.
            handle.write(f"*:{port}:*:{SUPERUSER}:{password}\n")
        new.replace(self._passfile)


_HOME_HINT = "Set FAREBOX_HOME to a folder for the embedded server."


def server_settings(port: int, socket_folder: str) -> dict[str, str | int]:
    """Settings of the embedded server: many short writing transactions, on a machine it shares."""
    megabytes = physical_memory() // (1 << 20)
    return {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": socket_folder,
        # A driver needs a handful of connections; this leaves room for many drivers and a few people.
        "max_connections": 200,
        # An acknowledged ticket survives a crash. Defaults, which stand here so that nobody has to ask.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # Holds the indexes of millions of tickets. More is for a server with a machine of its own, where a
        # quarter of the memory keeps even hours of 5,000 a second free of stalls (tests/bench/RESULTS.md).
        "shared_buffers": f"{max(128, min(megabytes // 4, 2048))}MB",
        "effective_cache_size": f"{max(256, megabytes // 2)}MB",
        # Each checkpoint makes every page be logged whole at its next change: have few of them.
        "max_wal_size": "4GB",
        "min_wal_size": "512MB",
        "checkpoint_timeout": "15min",
        # pglz, the only compression that the embedded server has, costs more than what it saves.
        "wal_compression": "off",
        # Inserts are bursts of WAL; 16 MB keep a batch from waiting for the buffer.
        "wal_buffers": "16MB",
        # Every statement is short: compiling one costs more than it can save.
        "jit": "off",
        # Flash, not spinning disks.
        "random_page_cost": "1.1",
        # The hot rows are few and updated often: look for dead rows more often than once a minute.
        "autovacuum_naptime": "15s",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # One file for each day of the week, overwritten a week later: the log cannot fill the disk.
        "logging_collector": "on",
        "log_filename": "postgresql-%a.log",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        # Phones and one-time passwords stay out of the log. The text of an error can quote a value, so errors
        # are left to the client that gets them; what concerns the server itself is logged.
        "log_min_messages": "log",
        "log_parameter_max_length": "0",
    }


def _ensure_database(dsn: str) -> None:
    try:
        with psycopg.connect(dsn, dbname="postgres", autocommit=True, connect_timeout=30) as conn:
            found = conn.execute(
                "select from pg_catalog.pg_database where datname = %s", [DATABASE]
            ).fetchone()
            if found is None:
                conn.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    except psycopg.OperationalError as error:
        raise ServerError(f"the embedded server refuses the connection: {error}") from error


def resolve_dsn(dsn: str | None) -> str:
    """The database to work on: ``dsn`` if given, else FAREBOX_DSN, else the running embedded server.

    Raises ConfigurationError when there is none of them.
    """
    if found := dsn or os.environ.get("FAREBOX_DSN") or EmbeddedServer().dsn():
        return found
    raise ConfigurationError(
        "no database: neither --dsn nor FAREBOX_DSN is set, and the embedded server is not running",
        hint="Start the embedded server with 'farebox up', or name a database with --dsn.",
    )

"""PostgreSQL servers for tests: one of each version shared by all workers, and private ones to break."""

import base64
import contextlib
import fcntl
import functools
import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from farebox._cluster import SUPERUSER, Cluster, free_port
from farebox._files import db_dir
from farebox._installation import Installation, embedded_installation, service_account, system_installation
from farebox.errors import ServerError
from farebox.schema import load_schema
from tests.support.keeper import CLOSED

VERSIONS = ("pg15", "pg18")

# Debian's pgTAP is plain SQL: any server loads it that is told where it lies (PostgreSQL 18 can be told).
_PGTAP = [path.parents[1] for path in Path("/usr/share/postgresql").glob("*/extension/pgtap.control")]

_SETTINGS: dict[str, str | int] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": 200,
    "shared_buffers": "128MB",
    # The files may lie in memory: keep the log of changes short.
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "jit": "off",
    # As in good houses something is loaded; a session then need not look for it.
    "shared_preload_libraries": "plpgsql",
    # A test that hangs fails, with the statement named, long before a person would lose patience.
    "statement_timeout": "120s",
    "idle_in_transaction_session_timeout": "300s",
    "deadlock_timeout": "200ms",
    # Statistics and dead rows change only when a test says so.
    "autovacuum": "off",
    "timezone": "UTC",
    # Nothing of a killed server stays behind in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] %d ",
}
# Only for servers that no test crashes: nothing is lost that anybody would look for.
_NOT_DURABLE: dict[str, str | int] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class NotAvailableError(Exception):
    """Something this machine lacks; the message says what, and how to get it."""


def add_extension(conn: psycopg.Connection[Any], name: LiteralString, package: str) -> None:
    """Creates an extension that comes from a package of Debian. Raises NotAvailableError."""
    try:
        conn.execute(sql.SQL("create extension {}").format(sql.Identifier(name)))
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise NotAvailableError(f"the extension {name} is not installed (Debian: {package})") from error


@dataclass(frozen=True)
class Server:
    """A running server. ``name`` is the version: ``pg15`` or ``pg18``."""

    name: str
    cluster: Cluster
    port: int
    password: str = field(repr=False)

    @property
    def major(self) -> int:
        """Such as 15."""
        return self.cluster.installation.major

    def dsn(self, dbname: str, user: str = SUPERUSER, password: str | None = None) -> str:
        """A URI for that database and login (default: the superuser)."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """An autocommit connection of the superuser."""
        return psycopg.connect(self.dsn(dbname), autocommit=True, connect_timeout=30)

    def start(self) -> None:
        """Starts it again after ``stop`` or ``kill``, on the same port."""
        self.cluster.start(seconds=120)

    def stop(self, mode: str = "fast") -> None:
        """Stops it; connections break."""
        self.cluster.stop(mode, seconds=120)

    def create_database(self, name: str, *, tap: bool | None = False) -> None:
        """A new database: cloned from the template with Farebox (``tap``: and pgTAP), or empty for None."""
        with self.connect() as conn:
            if tap is None:
                conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
                return
            template = self._template(conn, tap=tap)
            conn.execute(
                sql.SQL("create database {} template {} strategy file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )

    def drop_database(self, name: str, *logins: str) -> None:
        """Drops it, ending its sessions, and then these roles."""
        with self.connect() as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            for login in logins:
                conn.execute(sql.SQL("drop role {}").format(sql.Identifier(login)))

    def _template(self, conn: psycopg.Connection[tuple[Any, ...]], *, tap: bool) -> str:
        """Name of the template with the present SQL in it; made by whoever needs it first."""
        name = f"template_{_hash_of_sql()}{'_tap' if tap else ''}"
        known = sql.SQL("select from pg_catalog.pg_database where datname = %s and not datallowconn")
        if conn.execute(known, [name]).rowcount:
            return name
        with _locked(self.cluster.data_dir.with_name(f"{self.cluster.data_dir.name}.template.lock")):
            if conn.execute(known, [name]).rowcount:
                return name
            self.drop_database(name)
            conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
            with self.connect(name) as inside:
                load_schema(inside)
                if tap:
                    add_extension(inside, "pgtap", "postgresql-15-pgtap")
            conn.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
        return name


class Farm:
    """The servers of one test run. All their files are below ``root``, which the keeper removes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def make_root() -> Path:
        """A new folder that the account of the servers can enter, with a path short enough for sockets."""
        root = Path(tempfile.mkdtemp(prefix="farebox-tests-", dir=_fastest_folder()))
        root.chmod(0o755)
        return root

    def folder(self, prefix: str) -> Path:
        """A new folder for a server of the test's own (such as FAREBOX_HOME) that its account can enter."""
        path = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.root))
        path.chmod(0o755)
        return path

    def shared(self, name: str) -> Server:
        """The server of that version which all tests share; the first who asks starts it.

        Raises NotAvailableError when this machine lacks that version.
        """
        data_dir = self.root / name
        note = self.root / f"{name}.json"
        installation = self.installation(name)
        with _locked(self.root / f"{name}.lock"):
            if not note.exists():
                port, password = self._launch(data_dir, installation, _SETTINGS | _NOT_DURABLE)
                note.write_text(json.dumps({"port": port, "password": password}))
        known = json.loads(note.read_text())
        return Server(name, Cluster(data_dir, installation), known["port"], known["password"])

    @contextlib.contextmanager
    def private(self, name: str, **settings: str | int) -> Generator[Server]:
        """A durable server of the test's own, gone with its data at the end. Raises NotAvailableError."""
        folder = self.folder(f"{name}-private")
        cluster = Cluster(folder / "data", self.installation(name))
        try:
            port, password = self._launch(cluster.data_dir, cluster.installation, _SETTINGS | settings)
            yield Server(name, cluster, port, password)
        finally:
            cluster.stop("immediate", seconds=120)
            shutil.rmtree(folder)

    def installation(self, name: str) -> Installation:
        """The programs of that version. Raises NotAvailableError."""
        if name == "pg15":
            installation = system_installation(15)
            if installation is None:
                raise NotAvailableError("PostgreSQL 15 is not installed (Debian: postgresql-15)")
            return installation
        try:
            return embedded_installation(self.root, service_account())
        except ServerError as error:
            raise NotAvailableError(str(error)) from error

    def _launch(
        self, data_dir: Path, installation: Installation, settings: dict[str, str | int]
    ) -> tuple[int, str]:
        password = self._copy_of_fresh_cluster(data_dir, installation)
        cluster = Cluster(data_dir, installation)
        extra: dict[str, str | int] = {"unix_socket_directories": cluster.socket_folder}
        if installation.major >= 18:
            extra |= {"io_method": "sync", "extension_control_path": ":".join(["$system", *map(str, _PGTAP)])}
        for attempt in range(5):
            port = free_port()
            cluster.configure(settings | extra | {"port": port})
            try:
                cluster.start(seconds=120)
            except ServerError as error:
                if "ddress already in use" not in str(error) or attempt == 4:
                    raise
            else:
                return port, password
        raise AssertionError

    def _copy_of_fresh_cluster(self, data_dir: Path, installation: Installation) -> str:
        """Copies what initdb made once for all; returns the password it was given."""
        fresh = self.root / f"fresh{installation.major}"
        secret = self.root / f"{fresh.name}.password"
        with _locked(self.root / f"{fresh.name}.lock"):
            if not fresh.exists():
                secret.touch(mode=0o600)
                secret.write_text(secrets.token_urlsafe(24))
                Cluster(fresh, installation).create(verifier(secret.read_text()), "--no-sync")
        shutil.copytree(fresh, data_dir)
        if installation.account is not None:
            for path in (data_dir, *data_dir.rglob("*")):
                os.chown(path, installation.account.uid, installation.account.gid)
        return secret.read_text()


def _fastest_folder() -> str | None:
    """Memory, where cloning a database takes a tenth of the time; None (the usual folder) if it is small.

    What TMPDIR names is used as it stands.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not memory.is_dir():
        return None
    space = os.statvfs(memory)
    enough = space.f_bavail * space.f_frsize > 4 << 30
    return str(memory) if enough and not space.f_flag & os.ST_NOEXEC else None


def verifier(password: str) -> str:
    """What PostgreSQL keeps of a password, stretched once instead of 4,096 times.

    Random passwords need no stretching, and tests connect thousands of times: half of the time went there.
    """
    salt, rounds = secrets.token_bytes(16), 1
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    keys = (hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256"))
    encoded = [base64.b64encode(part).decode() for part in (salt, *keys)]
    return f"SCRAM-SHA-256${rounds}:{encoded[0]}${encoded[1]}:{encoded[2]}"


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    """One process at a time; raises RuntimeError when the test run is over already."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if any((folder / CLOSED).exists() for folder in path.parents) or not path.exists():
            raise RuntimeError("the test run is over")
        yield


@functools.cache
def _hash_of_sql() -> str:
    digest = hashlib.sha256()
    folder = db_dir()
    for path in sorted(folder.rglob("*.sql")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]

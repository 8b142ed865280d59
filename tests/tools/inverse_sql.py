"""Writes the statements that undo the SQL of ``db/``.

Only what ``db/`` really uses is understood. Anything else raises: a rollback that silently leaves something
out is found by nobody until the night it is needed.
"""

import functools
import re

import sqlparse

_NAME = r"(?P<name>farebox\.\w+)"
_NOTHING = [
    # Said again by the rollback itself, or gone together with the object.
    re.compile(r"(set|reset) role\b.*"),
    re.compile(r"comment on .*"),
    # Objects of a schema of ours are made without these rights for PUBLIC in the first place.
    re.compile(r"revoke (all|execute)( privileges)? on .* from public"),
]
_CREATED = [
    (re.compile(r"create (?P<kind>schema) (?P<name>farebox)\b.*"), "drop schema {name};"),
    (re.compile(rf"create (?P<kind>type|table|view|sequence|domain) {_NAME}\b.*"), "drop {kind} {name};"),
    (re.compile(rf"create (unique )?index (?P<index>\w+) on {_NAME}\b.*"), "drop index farebox.{index};"),
    (re.compile(rf"create policy (?P<policy>\w+) on {_NAME}\b.*"), "drop policy {policy} on {name};"),
    (
        re.compile(rf"create (or replace )?(constraint )?trigger (?P<trigger>\w+) .*? on {_NAME}\b.*"),
        "drop trigger {trigger} on {name};",
    ),
    (
        re.compile(rf"alter table {_NAME} (?P<verb>enable|force) row level security"),
        "alter table {name} {opposite} row level security;",
    ),
    (
        re.compile(r"alter default privileges (?P<whose>.*?) ?revoke (?P<what>.*?) from (?P<role>\w+)"),
        "alter default privileges {whose} grant {what} to {role};",
    ),
    (
        re.compile(r"alter default privileges (?P<whose>.*?) ?grant (?P<what>.*?) to (?P<role>[\w, ]+)"),
        "alter default privileges {whose} revoke {what} from {role};",
    ),
    (
        re.compile(r"grant (?P<what>.*?) to (?P<role>[\w, ]+)"),
        "revoke {what} from {role};",
    ),
]
# Undone by dropping the table; rows of a table that was there before are nobody's to guess.
_FILLED = re.compile(rf"insert into {_NAME} .*")
_FUNCTION = re.compile(r"create (?:or replace )?(?P<kind>function|procedure) (?P<name>farebox\.\w+)\s*\(")
# A table takes these with it when it is dropped.
_PARTS_OF_A_TABLE = ("drop index", "drop policy", "drop trigger", "alter table")


class UnknownStatementError(Exception):
    """No rule says how to undo this statement."""


def undo(text: str) -> list[str]:
    """The statements that undo those of ``text``, last first. Raises UnknownStatementError."""
    undone: list[str] = []
    created_tables: set[str] = set()
    for statement in sqlparse.split(text):
        filled = _FILLED.fullmatch(_flat(statement))
        if filled and filled["name"] in created_tables:
            continue
        opposite = _undo_one(statement)
        if opposite is None:
            continue
        if opposite.startswith("drop table"):
            created_tables.add(opposite.removeprefix("drop table ").rstrip(";"))
        if opposite.startswith(_PARTS_OF_A_TABLE) and any(
            re.search(rf"{re.escape(table)}\b", _flat(statement)) for table in created_tables
        ):
            continue
        undone.append(opposite)
    return undone[::-1]


@functools.cache
def _flat(statement: str) -> str:
    """The statement without comments, on one line, without its semicolon."""
    bare: str = sqlparse.format(statement, strip_comments=True)
    return " ".join(bare.split()).rstrip("; ")


def _undo_one(statement: str) -> str | None:
    flat = _flat(statement)
    if not flat or any(pattern.fullmatch(flat) for pattern in _NOTHING):
        return None
    if flat.startswith(("create function", "create or replace function", "create procedure", "do ")):
        # A do block may choose between two texts of one function by the version of the server.
        matches = list(_FUNCTION.finditer(statement))
        if not matches:
            raise UnknownStatementError(statement)
        created = matches if flat.startswith("do ") else matches[:1]
        return "\n".join(dict.fromkeys(_drop_function(statement, match) for match in created))
    for pattern, template in _CREATED:
        if match := pattern.fullmatch(flat):
            words = match.groupdict()
            words["opposite"] = {"enable": "disable", "force": "no force"}.get(words.get("verb") or "", "")
            return template.format(**words)
    raise UnknownStatementError(statement)


def _drop_function(statement: str, match: re.Match[str]) -> str:
    return f"drop {match['kind']} {match['name']}({', '.join(arguments(statement, match.end()))});"


def arguments(statement: str, start: int) -> list[str]:
    """The argument list that begins at ``start``, behind its opening parenthesis, without default values."""
    depth, current = 1, ""
    found: list[str] = []
    for character in statement[start:]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0 or (depth == 1 and character == ","):
            found.append(" ".join(re.split(r"\s+default\s+|\s*:?=\s*", current, maxsplit=1)[0].split()))
            current = ""
            if depth == 0:
                break
        else:
            current += character
    return [argument for argument in found if argument]

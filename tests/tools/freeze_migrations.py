"""Makes migrations from ``db/``: frozen copies, each with the rollback that undoes it.

    python -m tests.tools.freeze_migrations --check                  is everything of db/ in a migration?
    python -m tests.tools.freeze_migrations --regenerate-unreleased  make the first migrations anew
    python -m tests.tools.freeze_migrations --new verb-object        propose a migration for what changed
    python -m tests.tools.freeze_migrations --release                list all files in SHA256SUMS

The output depends on nothing but ``db/`` and the migrations before it. Each copy in a migration stands below
a line that names its file, so what was frozen last is read from the migrations themselves.
``migrations/README.md`` tells how to work with it.
"""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click

from farebox._files import db_dir
from farebox._migration_files import ROLLBACK_SUFFIX, SUMS, checksum, released_sums
from farebox.errors import ConfigurationError
from farebox.schema import SqlFile, manifest
from tests.tools.inverse_sql import UnknownStatementError, undo

# Undone and done anew as a whole: that is quick, and no grant or policy of before is left over.
REDONE = ("grants.sql", "policies.sql")
BY_HAND = "WRITE THIS PART BY HAND"
GROUPS = ("create-schema", "create-tables", "create-functions", "grant-access")

_MARK = re.compile(
    r"^-- \[(?P<what>copy of|by hand for|before|removed) db/(?P<name>\S+?)"
    r"(?: sha256:(?P<digest>[0-9a-f]{64}))?\]$",
    re.MULTILINE,
)
_DIRECTIVE = re.compile(r"^\s*--\s*(depends|transactional)\s*:", re.MULTILINE)
_RETURNS = re.compile(
    r"create (?:or replace )?function (farebox\.\w+)[^$]*?\sreturns\s+([^$]*?)\s+language\s"
)

# Roles belong to the whole cluster. They go together, and only when no database uses any of them and nobody
# but whoever rolls back is a member. The server knows the first: it refuses to drop a role that owns a thing
# in another database, and there farebox_owner owns the schema from the first migration on.
_UNDO_ROLES = """\
do $$
declare
  v_roles constant text[] := array[
    'farebox_owner', 'farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin'];
  v_role text;
  v_members text;
begin
  select string_agg(format('%s in %s', u.rolname, g.rolname), ', ' order by g.rolname, u.rolname)
  into v_members
  from pg_catalog.pg_auth_members as m
  join pg_catalog.pg_roles as g on g.oid = m.roleid
  join pg_catalog.pg_roles as u on u.oid = m.member
  where g.rolname = any(v_roles) and u.rolname <> current_user and u.rolname <> all(v_roles)
    -- Since PostgreSQL 16 whoever created a role may administer it; that alone is no use of it.
    and coalesce(
      (to_jsonb(m) ->> 'set_option')::boolean or (to_jsonb(m) ->> 'inherit_option')::boolean, true);
  if v_members is not null then
    raise notice 'the roles of farebox stay, they have members: %', v_members;
    return;
  end if;
  foreach v_role in array v_roles loop
    execute format('drop role if exists %I', v_role);
  end loop;
exception when dependent_objects_still_exist or insufficient_privilege then
  raise notice 'the roles of farebox stay: %', sqlerrm;
end
$$;
"""


class FreezeError(Exception):
    """What is asked for cannot be done; the message says why."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A migration not yet written: its id and the texts of both files."""

    id: str
    up: str
    down: str

    def write(self, folder: Path) -> None:
        """Writes both files into ``folder``."""
        (folder / f"{self.id}.sql").write_text(self.up, encoding="utf-8")
        (folder / f"{self.id}{ROLLBACK_SUFFIX}").write_text(self.down, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Frozen:
    """What the migrations hold of one file of ``db/``; ``text`` is None if it was last changed by hand."""

    text: str | None
    digest: str


def first_release(files: Sequence[SqlFile]) -> list[Draft]:
    """The migrations that make an empty database from ``files``, a handful, in the order of the manifest."""
    drafts: list[Draft] = []
    for name, group in groupby(files, key=_group_of(files)):
        members = list(group)
        up = "\n".join(_copy(file) for file in members)
        undone = [line for file in reversed(members) if file.name != "roles.sql" for line in undo(file.text)]
        down = _as_owner(undone)
        if any(file.name == "roles.sql" for file in members):
            down = f"{down}\n{_UNDO_ROLES}"
        previous = drafts[-1].id if drafts else None
        drafts.append(_draft(len(drafts) + 1, name, previous, up, down))
    return drafts


def next_migration(files: Sequence[SqlFile], folder: Path, name: str) -> Draft:
    """Proposes the migration ``name`` for all in which ``files`` differ from the migrations in ``folder``.

    Functions and grants come complete, in both directions. What else changed (a table, a type) is left to be
    written by hand, at places that are marked. Raises FreezeError when nothing changed, or a released
    signature would.
    """
    frozen = frozen_state(folder)
    ups: list[str] = []
    downs: list[str] = []
    for file in files:
        old = frozen.get(file.name)
        if old is not None and old.digest == _digest(file.text):
            continue
        up, down = _change(file, old)
        ups.append(up)
        downs.append(down)
    for lost in [path for path in frozen if path not in {file.name for file in files}]:
        old_text = frozen[lost].text
        mark = f"-- [removed db/{lost}]\n"
        if old_text is None:
            raise FreezeError(
                f"db/{lost} is gone, but was last changed by hand: write that migration by hand"
            )
        ups.append(mark + _as_owner(undo(old_text)))
        downs.append(f"-- [copy of db/{lost}]\n{old_text}")
    if not ups:
        raise FreezeError("nothing in db/ has changed since the last migration")
    last = sorted(path.name.removesuffix(".sql") for path in _up_files(folder))[-1]
    return _draft(int(last[:4]) + 1, name, last, "\n".join(ups), "\n".join(reversed(downs)))


def frozen_state(folder: Path) -> dict[str, Frozen]:
    """What the migrations in ``folder`` hold of each file of ``db/``, after all of them are applied."""
    state: dict[str, Frozen] = {}
    for path in _up_files(folder):
        text = path.read_text(encoding="utf-8")
        marks = list(_MARK.finditer(text))
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        for mark, end in zip(marks, ends, strict=True):
            body = text[mark.end() : end].strip() + "\n"
            if mark["what"] == "before":
                continue
            if mark["what"] == "removed":
                del state[mark["name"]]
            elif mark["what"] == "copy of":
                state[mark["name"]] = Frozen(body, _digest(body))
            else:
                state[mark["name"]] = Frozen(None, mark["digest"])
    return state


def unfrozen(files: Sequence[SqlFile], folder: Path) -> list[str]:
    """What speaks against a release: files of ``db/`` unlike their copies, parts not yet written."""
    state = frozen_state(folder)
    problems = [
        f"db/{file.name} differs from its copy in the migrations"
        for file in files
        if file.name not in state or state[file.name].digest != _digest(file.text)
    ]
    gone = sorted(state.keys() - {file.name for file in files})
    problems += [f"db/{name} is gone, but the migrations create it" for name in gone]
    unwritten = [
        path.name for path in sorted(folder.glob("*.sql")) if BY_HAND in path.read_text(encoding="utf-8")
    ]
    return problems + [f"{name} has a part that is to be written by hand" for name in unwritten]


def _group_of(files: Sequence[SqlFile]) -> Callable[[SqlFile], str]:
    """Says for each file which of the first migrations it belongs to; each is a stretch of the manifest."""
    tables = [index for index, file in enumerate(files) if file.name.startswith("tables/")]
    functions = [index for index, file in enumerate(files) if file.name.startswith("functions/")]
    if not tables or not functions:
        raise FreezeError("no tables or no functions in the manifest")
    # Where each group but the first begins.
    begins = (tables[0], tables[-1] + 1, max(functions[-1], tables[-1]) + 1)
    positions = {file.name: index for index, file in enumerate(files)}
    return lambda file: GROUPS[sum(begin <= positions[file.name] for begin in begins)]


def _change(file: SqlFile, old: Frozen | None) -> tuple[str, str]:
    """Up and down of one new or changed file."""
    if old is None:
        return _copy(file), _as_owner(undo(file.text))
    if not file.name.startswith("functions/") and file.name not in REDONE:
        mark = f"-- [by hand for db/{file.name} sha256:{_digest(file.text)}]\n"
        return f"{mark}{_by_hand(file, 'there')}", _by_hand(file, "back")
    if old.text is None:
        raise FreezeError(f"db/{file.name} was last changed by hand: write that migration by hand")
    returned, returns = _results(old.text), _results(file.text)
    if any(returns.get(name, result) != result for name, result in returned.items()):
        raise FreezeError(f"db/{file.name} returns something else than before: that takes a new function")
    before, after = undo(old.text), undo(file.text)
    if file.name in REDONE:
        return f"{_first(file, before)}{_copy(file)}", f"{_as_owner(after)}\n{old.text}"
    if lost := [
        line for line in before if line not in after and re.match(r"drop function farebox\.[a-z]", line)
    ]:
        raise FreezeError(f"db/{file.name}: a released signature never changes: {'; '.join(lost)}")
    up = _first(file, [line for line in before if line not in after])
    down = _as_owner([line for line in after if line not in before])
    return f"{up}{_copy(SqlFile(file.name, _or_replace(file.text)))}", f"{down}{_or_replace(old.text)}"


def _by_hand(file: SqlFile, way: str) -> str:
    """What stands in for the statements that a person has to write; it fails when it is run."""
    return f"do $$ begin raise exception '{BY_HAND}: the way {way}, for db/{file.name}'; end $$;\n"


def _first(file: SqlFile, statements: list[str]) -> str:
    """What has to go before the new text of ``file`` can come, if anything; kept apart from the copy."""
    return f"-- [before db/{file.name}]\n{_as_owner(statements)}\n" if statements else ""


def _results(text: str) -> dict[str, str]:
    """By function: what it returns."""
    return {name: " ".join(result.split()) for name, result in _RETURNS.findall(text)}


def _or_replace(text: str) -> str:
    return re.sub(r"\bcreate (function|trigger)\b", r"create or replace \1", text)


def _copy(file: SqlFile) -> str:
    if _DIRECTIVE.search(file.text) or _MARK.search(file.text):
        raise FreezeError(f"db/{file.name} has a comment that a migration would take for an instruction")
    return f"-- [copy of db/{file.name}]\n{file.text.strip()}\n"


def _as_owner(statements: Iterable[str]) -> str:
    wrapped = (
        textwrap.fill(line, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for statement in statements
        for line in statement.splitlines()
    )
    lines = "\n".join(wrapped)
    return f"set role farebox_owner;\n{lines}\nreset role;\n" if lines else ""


def _draft(number: int, name: str, previous: str | None, up: str, down: str) -> Draft:
    this = f"{number:04d}.{name}"
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name) is None:
        raise FreezeError(f"{name!r} is no name for a migration; take verb-object, such as add-refunds")
    made = "Made from db/ by tests/tools/freeze_migrations.py; see README.md here."
    depends = f"-- depends: {previous}\n" if previous else ""
    return Draft(this, f"-- {this}. {made}\n{depends}\n{up}", f"-- Undoes {this}. {made}\n\n{down}")


def _digest(text: str) -> str:
    """The checksum that says whether a copy still is what ``db/`` holds; a copy may say "or replace"."""
    return checksum(_or_replace(text).strip())


def _up_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.sql") if not path.name.endswith(ROLLBACK_SUFFIX))


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--db", type=click.Path(path_type=Path), default=db_dir, help="Default: db/ of this checkout.")
@click.option("--migrations", "folder", type=click.Path(path_type=Path), help="Default: beside db/.")
@click.option("--check", "action", flag_value="check", help="Fail when something of db/ is in no migration.")
@click.option("--regenerate-unreleased", "action", flag_value="regenerate", help="Make the first ones anew.")
@click.option("--release", "action", flag_value="release", help="Freeze all files: list them in SHA256SUMS.")
@click.option("--new", "name", metavar="VERB-OBJECT", help="Propose a migration for what changed.")
def main(db: Path, folder: Path | None, action: str | None, name: str | None) -> None:
    """Command line."""
    folder = folder or db.parent / "migrations"
    try:
        files = manifest(db)
        if name is not None:
            draft = next_migration(files, folder, name)
            draft.write(folder)
            click.echo(
                f"{draft.id}.sql and its rollback: read both, complete what is left to you, run the tests"
            )
        elif action == "regenerate":
            _regenerate(files, folder)
        elif action == "release":
            _release(files, folder)
        elif action == "check":
            if problems := unfrozen(files, folder):
                raise FreezeError("\n".join(problems))
        else:
            raise click.UsageError("say what to do: --check, --new, --regenerate-unreleased or --release")
    except (FreezeError, UnknownStatementError, ConfigurationError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def _regenerate(files: Sequence[SqlFile], folder: Path) -> None:
    if released_sums(folder):
        raise FreezeError(f"{SUMS} lists released migrations: they stay. Use --new for what changed since.")
    drafts = first_release(files)
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.sql"):
        path.unlink()
    for draft in drafts:
        draft.write(folder)
    click.echo(f"made {', '.join(draft.id for draft in drafts)}")


def _release(files: Sequence[SqlFile], folder: Path) -> None:
    if problems := unfrozen(files, folder):
        raise FreezeError("\n".join(problems))
    found = {path.name: checksum(path.read_bytes()) for path in sorted(folder.glob("*.sql"))}
    if edited := [name for name, digest in released_sums(folder).items() if found.get(name) != digest]:
        raise FreezeError(f"edited or gone since their release: {', '.join(edited)}")
    (folder / SUMS).write_text(
        "".join(f"{digest}  {name}\n" for name, digest in found.items()), encoding="utf-8"
    )
    click.echo(f"released: {len(found)} files in {SUMS}")


if __name__ == "__main__":
    main()

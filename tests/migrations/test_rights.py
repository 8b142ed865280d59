"""Who may migrate: no superuser is needed, and what is missing is told at once and can be pasted."""

from collections.abc import Callable

import pytest

from farebox import migrate
from farebox._migration_files import read_files
from farebox.errors import PermissionDeniedError
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]
ROLES = "farebox_owner", "farebox_app", "farebox_worker", "farebox_company", "farebox_admin"


def creator(lab: Lab) -> tuple[str, str]:
    """A login that may create roles, and schemas in the database of somebody else."""
    login, database = lab.login("createrole"), lab.database()
    lab.execute("postgres", f"grant create on database {database} to {login}".encode())
    return login, database


def managed(lab: Lab) -> tuple[str, str]:
    """A managed server: the customer's login owns the database and may create roles."""
    login = lab.login("createrole createdb")
    return login, lab.database(owner=login)


def managed_without_public(lab: Lab) -> tuple[str, str]:
    """The same with the schema public taken away."""
    login, database = managed(lab)
    lab.execute(database, b"drop schema public")
    return login, database


def roles_made_by_a_dba(lab: Lab) -> tuple[str, str]:
    """No CREATEROLE: somebody else has made the roles and let the login act as the owner."""
    login, database = lab.login(), lab.database()
    for role in ROLES:
        lab.execute("postgres", f"create role {role} nologin".encode())
    lab.execute("postgres", f"grant farebox_owner to {login}".encode())
    lab.execute("postgres", f"grant create on database {database} to {login}".encode())
    return login, database


def roles_made_and_administered(lab: Lab) -> tuple[str, str]:
    """CREATEROLE, and the roles are there from another database that the same login has migrated."""
    login, database = creator(lab)
    other = lab.database()
    lab.execute("postgres", f"grant create on database {other} to {login}".encode())
    migrate.apply(lab.dsn(other, login))
    return login, database


@pytest.mark.parametrize(
    "make",
    [creator, managed, managed_without_public, roles_made_by_a_dba, roles_made_and_administered],
    ids=lambda make: make.__name__,
)
def test_a_login_that_is_no_superuser_migrates_and_rolls_back(
    lab: Lab, make: Callable[[Lab], tuple[str, str]]
) -> None:
    login, database = make(lab)
    dsn = lab.dsn(database, login)
    before = lab.catalog_and_roles(database)
    assert migrate.apply(dsn) == IDS
    by_superuser = lab.catalog_of_db_folder()
    ours = lab.catalog(database)
    for kind in (
        "relations",
        "columns",
        "constraints",
        "indexes",
        "functions",
        "types",
        "triggers",
        "policies",
    ):
        assert ours[kind] == by_superuser[kind], kind
    lab.add_data(database)
    assert [state.id for state in migrate.status(dsn) if state.applied_at] == IDS
    assert migrate.rollback(dsn, count=None) == IDS[::-1]
    assert lab.catalog_and_roles(database) == before
    assert migrate.apply(dsn) == IDS


def test_what_the_migrating_login_gets_is_the_owner_and_nothing_more(lab: Lab) -> None:
    login, database = creator(lab)
    migrate.apply(lab.dsn(database, login))
    groups = lab.execute(
        "postgres",
        f"select roleid::regrole::text from pg_auth_members where member = '{login}'::regrole"
        " and (to_jsonb(pg_auth_members) ->> 'set_option') is distinct from 'false'".encode(),
    )
    assert groups == [("farebox_owner",)]


def bare(lab: Lab) -> tuple[str, str]:
    """A login without any right."""
    return lab.login(), lab.database()


def no_create_on_the_database(lab: Lab) -> tuple[str, str]:
    return lab.login("createrole"), lab.database()


def no_createrole(lab: Lab) -> tuple[str, str]:
    login = lab.login()
    return login, lab.database(owner=login)


def not_the_owner(lab: Lab) -> tuple[str, str]:
    """Somebody else has migrated; this login may not act as the owner, nor see what is applied."""
    login, database = lab.login(), lab.database()
    migrate.apply(lab.dsn(database), target=IDS[0])
    return login, database


def odd_names(lab: Lab) -> tuple[str, str]:
    login, database = bare(lab)
    lab.execute("postgres", f'alter role {login} rename to "{login} ""x"" ;"'.encode())
    lab.execute("postgres", f'alter database {database} rename to "{database} ""y"""'.encode())
    return lab.renamed(login, f'{login} "x" ;'), f'{database} "y"'


@pytest.mark.parametrize(
    "make",
    [bare, no_create_on_the_database, no_createrole, not_the_owner, odd_names],
    ids=lambda make: make.__name__,
)
def test_the_statements_of_the_error_are_all_that_is_missing(
    lab: Lab, make: Callable[[Lab], tuple[str, str]]
) -> None:
    login, database = make(lab)
    before = lab.catalog_and_roles(database)
    with pytest.raises(PermissionDeniedError) as caught:
        migrate.apply(lab.dsn(database, login))
    assert caught.value.sqlstate == "42501"
    assert lab.catalog_and_roles(database) == before
    assert caught.value.hint is not None
    statements = [line.strip() for line in caught.value.hint.splitlines() if line.endswith(";")]
    assert statements
    for statement in statements:
        lab.execute(database, statement.encode())
    applied = migrate.apply(lab.dsn(database, login))
    assert applied == IDS[-len(applied) :]
    assert all(state.applied_at for state in migrate.status(lab.dsn(database, login)))


def test_rolling_back_takes_the_owner(lab: Lab) -> None:
    login, database = not_the_owner(lab)
    with pytest.raises(PermissionDeniedError, match="membership in farebox_owner") as caught:
        migrate.rollback(lab.dsn(database, login))
    assert caught.value.sqlstate == "42501"
    assert [state.id for state in migrate.status(lab.dsn(database)) if state.applied_at] == IDS[:1]


def test_status_of_a_stranger_is_denied(lab: Lab) -> None:
    login, database = not_the_owner(lab)
    with pytest.raises(PermissionDeniedError):
        migrate.status(lab.dsn(database, login))


def test_a_second_login_that_may_create_roles_needs_the_owner_of_the_first(lab: Lab) -> None:
    """Since PostgreSQL 16 CREATEROLE rules only over roles it made; before, over all but superusers."""
    login, database = creator(lab)
    migrate.apply(lab.dsn(database, login))
    second, other = creator(lab)
    if lab.server.major >= 16:
        with pytest.raises(PermissionDeniedError, match="membership in farebox_owner"):
            migrate.apply(lab.dsn(other, second))
        lab.execute("postgres", f"grant farebox_owner to {second}".encode())
    assert migrate.apply(lab.dsn(other, second)) == IDS

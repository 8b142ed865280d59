"""Every way libpq has of naming a database leads to the same one, and so do the guide's URLs for yoyo."""

from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg.conninfo import make_conninfo

from farebox import migrate
from farebox._migration_files import read_files
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]
PASSWORD = "p@ss:w/ord%20 ?#&=+'\"\\ü"


@pytest.fixture
def database(lab: Lab) -> str:
    """A database with one migration, so that it can be recognised."""
    name = lab.database()
    migrate.apply(lab.dsn(name), target=IDS[0])
    return name


def is_it(dsn: str) -> bool:
    """Whether ``dsn`` leads to the database with exactly one migration."""
    return [state.id for state in migrate.status(dsn) if state.applied_at] == IDS[:1]


def test_url_and_key_value_with_any_password(lab: Lab, database: str) -> None:
    login = lab.login("superuser", password=PASSWORD)
    port = lab.server.port
    assert is_it(f"postgresql://{login}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}")
    assert is_it(make_conninfo(host="127.0.0.1", port=port, user=login, password=PASSWORD, dbname=database))
    doubled = f"postgresql+psycopg://{login}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"
    assert IDS[0] in lab.yoyo("list", f"{doubled}?schema=farebox_migrations")


def test_environment_and_password_file(
    lab: Lab, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = lab.login("superuser", password="a:b\\c")
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{lab.server.port}:*:{login}:a\\:b\\\\c\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(lab.server.port))
    monkeypatch.setenv("PGUSER", login)
    monkeypatch.setenv("PGDATABASE", database)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    assert is_it("")
    assert IDS[0] in lab.yoyo("list", "postgresql+psycopg://?schema=farebox_migrations")


def test_unix_socket(lab: Lab, database: str) -> None:
    folder = lab.server.cluster.socket_folder
    login = lab.login("superuser")
    query = f"host={quote(str(folder), safe='')}&port={lab.server.port}&user={login}&password=secret"
    assert is_it(f"postgresql:///{database}?{query}")
    assert is_it(f"host={folder} port={lab.server.port} user={login} password=secret dbname={database}")
    url = f"postgresql+psycopg:///{database}?{query}&schema=farebox_migrations"
    assert IDS[0] in lab.yoyo("list", url)


def test_service_file(lab: Lab, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = lab.login("superuser")
    services = tmp_path / "pg_service.conf"
    services.write_text(
        f"[buses]\nhost=127.0.0.1\nport={lab.server.port}\nuser={login}\npassword=secret\ndbname={database}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert is_it("service=buses")
    assert is_it("postgresql://?service=buses")
    assert IDS[0] in lab.yoyo("list", "postgresql+psycopg://?service=buses&schema=farebox_migrations")


def test_another_client_encoding_and_search_path(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=pg_temp")
    name = lab.database()
    assert migrate.apply(lab.dsn(name)) == IDS
    monkeypatch.delenv("PGOPTIONS")
    monkeypatch.delenv("PGCLIENTENCODING")
    assert lab.catalog(name) == lab.catalog_of_db_folder()

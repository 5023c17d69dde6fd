"""The backup scripts against a real Postgres with a real ledger: restore_drill.py SCRATCH_FOLDER

Says at the end how long a restore took (RTO, for the rows there were) and what could have been lost (RPO)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from live import ROOT, VLINDERS, World, ask, get, wait_for

SCRIPTS = ROOT / "deploy/components/backup"
ROWS = int(os.environ.get("DRILL_ROWS", "200000"))
SUM = "SELECT count(*) || ' ' || md5(string_agg(u::text, ',' ORDER BY request_id)) FROM usage u"
FILL = f"""
INSERT INTO usage SELECT 'drill-' || n, 1, 'tenant-' || n % 20, 'key-' || n % 100, 'model-' || n % 3, 'decode-0',
    n % 4000, n % 1000, n % 900, 'stop', n % 2 = 0, 1760000000000 + n, 1760000000100 + n, 1760000002000 + n
FROM generate_series(1, {ROWS}) n"""


def everything_else(server) -> dict[str, str]:
    """A sum of every other table, whatever the program has made."""
    tables = server.sql("SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'").split()
    one = "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM {} t"
    return {table: server.sql(one.format(table)) for table in tables if table != "usage"}


def run(server, script, *arguments, database="vlinders", **env):
    command = [SCRIPTS / script, *arguments]
    environment = {**os.environ, **server.env(database), "PGCONNECT_TIMEOUT": "5", **env}
    return subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)


def dumps(folder: Path) -> list[Path]:
    return sorted(folder.glob("vlinders-*.dump"))


def usage_role(world, server, name):
    env = {"DATABASE_URL": server.url("vlinders")}
    return world.worker("usage", name, **env)


def real_rows(world: World, server) -> None:
    """A few rows that the program itself has written."""
    for role in ("prefill", "decode"):
        world.worker(role, role, KV_TRANSPORTS="shm")
    usage, port = usage_role(world, server, "usage")
    _, frontend = world.frontend("frontend")
    wait_for("usage", lambda: get(f"http://127.0.0.1:{port}/ready")[0] == 200)
    wait_for("frontend", lambda: get(f"http://127.0.0.1:{frontend}/ready")[0] == 200)
    for _ in range(5):
        status, text = ask(frontend, {"model": "vlinders-demo", "prompt": "hi", "max_tokens": 3})
        assert status == 200, text
    wait_for("five bills", lambda: server.sql("SELECT count(*) FROM usage") == "5")
    usage.end()
    key = [VLINDERS, "keys", "create", "--database-url", server.url("vlinders"), "--name", "drill", "--tenant", "acme"]
    subprocess.run(key, check=True, capture_output=True)


def dashboards_read(server) -> str:
    """The tables of the dashboards, as the role that docs/runbook.md makes for Grafana, which may do nothing else."""
    page = (ROOT / "deploy/docs/runbook.md").read_text()
    server.sql(re.search(r"## Grafana's role\n\n```sql\n(.*?)```", page, re.S)[1])
    asked = 0
    for path in (ROOT / "deploy/components/monitoring/dashboards").glob("*.json"):
        for text in re.findall(r'"rawSql": "(.*?)"\n?', path.read_text()):
            text = text.replace("$__unixEpochFrom()", "0").replace("$__unixEpochTo()", "4102444800")
            told = server.sql(f"SET ROLE grafana; SELECT count(*) FROM ({text}) t")
            assert int(told) > 0, f"{path.name}: {text} gives nothing"
            asked += 1
    assert asked >= 5, asked
    for refused in ("DELETE FROM usage", "SELECT * FROM api_keys"):
        try:
            server.sql(f"SET ROLE grafana; {refused}")
        except subprocess.CalledProcessError:
            continue
        raise AssertionError(f"Grafana's role may {refused}")
    return f"{asked} tables of dashboards have rows, for a role that may read usage and nothing else"


def backups_fail_loudly(world, server, folder) -> str:
    before = dumps(folder)
    metric = (folder / "backup.prom").read_text()
    server.end()
    told = run(server, "backup.sh", folder)
    assert told.returncode != 0 and "FAILED" in told.stderr, told
    base = run(server, "base-backup.sh", folder, world.folder / "wal")
    assert base.returncode != 0 and "FAILED" in base.stderr, base
    assert dumps(folder) == before and (folder / "backup.prom").read_text() == metric
    assert not list(folder.glob(".*incoming*")), "nothing half done stays"
    server.start()
    server.sql("CREATE DATABASE empty", database="postgres")
    told = run(server, "backup.sh", folder, database="empty")
    assert told.returncode != 0 and "no table of usage" in told.stderr and dumps(folder) == before, told
    return "with Postgres down, and of a database without the ledger, a backup fails and leaves what there is"


def old_ones_go_last(server, folder) -> str:
    old = []
    for day in range(10):
        path = folder / f"vlinders-2020010{day}T000000Z.dump"
        path.write_text("old")
        os.utime(path, (1_600_000_000 + day, 1_600_000_000 + day))
        old.append(path)
    told = run(server, "backup.sh", folder, KEEP_AT_LEAST="7")
    assert told.returncode == 0, told.stderr
    left = dumps(folder)
    assert len(left) == 7, left
    for path in old:
        path.unlink(missing_ok=True)
    return "old backups go after a good one, and the newest seven never"


def damage_is_noticed(world, server, folder) -> str:
    whole = dumps(folder)[-1]
    cut = world.folder / "cut.dump"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    told = run(server, "restore.sh", cut, "vlinders")
    assert told.returncode != 0 and "FAILED" in told.stderr, told
    changed = world.folder / "changed.dump"
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    checksum = Path(f"{whole}.sha256").read_text().split()[0]
    Path(f"{changed}.sha256").write_text(f"{checksum}  changed.dump\n")
    told = run(server, "restore.sh", changed, "vlinders")
    assert told.returncode != 0 and "not what was backed up" in told.stderr, told
    names = server.sql("SELECT string_agg(datname, ' ') FROM pg_database", database="postgres")
    assert "restoring" not in names, names
    return "a cut and a changed backup are refused, and the ledger stays as it is"


def restore(world, server, folder, whole: str) -> tuple[str, float]:
    others = everything_else(server)
    assert any(not told.startswith("0 ") for told in others.values()), others
    server.sql("DELETE FROM api_keys")
    server.sql("DELETE FROM usage WHERE request_id LIKE 'drill-1%'")
    server.sql("UPDATE usage SET completion_tokens = 0")
    assert server.sql(SUM) != whole
    rows = whole.split()[0]
    began = time.monotonic()
    told = run(server, "restore.sh", dumps(folder)[-1], "vlinders", EXPECT_ROWS=rows)
    took = time.monotonic() - began
    assert told.returncode == 0, told.stderr
    assert server.sql(SUM) == whole, "the rows are not what they were"
    assert everything_else(server) == others, f"{everything_else(server)} is not {others}"
    kept = server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'vlinders_before_%'", database="postgres")
    assert kept, "the old database is kept"
    server.sql(f'DROP DATABASE "{kept}"', database="postgres")
    # All of it gone, also the name.
    server.sql("DROP DATABASE vlinders", database="postgres")
    told = run(server, "restore.sh", dumps(folder)[-1], "vlinders", EXPECT_ROWS=rows)
    assert told.returncode == 0 and server.sql(SUM) == whole, told.stderr
    # The program goes on with it.
    usage, port = usage_role(world, server, "usage-again")
    wait_for("usage", lambda: get(f"http://127.0.0.1:{port}/ready")[0] == 200)
    usage.end()
    return f"{rows} rows came back, equal to the last byte of their sum, and {len(others)} other tables; the usage service goes on with them", took


def to_any_moment(world, server, folder, archive) -> tuple[str, float]:
    """The server's disk is lost: the physical copy and the archived log bring back what came after the copy too."""
    told = run(server, "base-backup.sh", folder, archive)
    assert told.returncode == 0, told.stderr
    copy = sorted(folder.glob("base-*"))[-1]
    server.sql("INSERT INTO usage SELECT 'later-' || request_id, attempt, tenant, key, model, writer, prompt_tokens,"
               " cached_tokens, completion_tokens, finish, stream, created_ms, first_token_ms, finished_ms FROM usage LIMIT 1000")
    whole = server.sql(SUM)
    segment = server.sql("SELECT pg_walfile_name(pg_switch_wal())")
    wait_for("the archived segment", lambda: (archive / segment).exists())
    server.end(signal.SIGKILL)
    data = server.home / "data"
    shutil.rmtree(data)
    began = time.monotonic()
    subprocess.run(["cp", "-a", copy, data], check=True)
    with open(data / "postgresql.auto.conf", "a") as settings:
        settings.write(f"restore_command = 'cp {archive}/%f %p'\n")
    (data / "recovery.signal").touch()
    if server.user:
        subprocess.run(["chown", "-R", f"{server.user}:", data], check=True)
    data.chmod(0o700)
    server.start()
    wait_for("the end of recovery", lambda: server.sql("SELECT pg_is_in_recovery()") == "f")
    took = time.monotonic() - began
    assert server.sql(SUM) == whole, "rows written after the copy are missing"
    return "a lost disk: 1000 rows written after the physical copy came back from the archived log", took


def main() -> int:
    with World(Path(sys.argv[1])) as world:
        folder, archive = world.folder / "backups", world.folder / "wal"
        folder.mkdir()
        archive.mkdir()
        archive.chmod(0o777)
        script = ROOT / "deploy/base/postgres/archive-wal.sh"
        # As a user that may not look into this checkout.
        copied = world.folder / "archive-wal.sh"
        shutil.copy(script, copied)
        copied.chmod(0o755)
        server = world.postgres(
            options=("archive_mode=on", f"archive_command=WAL_ARCHIVE={archive} /bin/sh {copied} %p %f", "fsync=off")
        )
        server.sql("CREATE DATABASE vlinders", database="postgres")
        world.nats()
        real_rows(world, server)
        server.sql(FILL)
        whole = server.sql(SUM)
        print(f"  {dashboards_read(server)}")
        began = time.monotonic()
        told = run(server, "backup.sh", folder)
        assert told.returncode == 0, told.stderr
        backup_s = time.monotonic() - began
        assert "postgres_backup_last_success_timestamp_seconds" in (folder / "backup.prom").read_text()
        print(f"  {backups_fail_loudly(world, server, folder)}")
        print(f"  {old_ones_go_last(server, folder)}")
        print(f"  {damage_is_noticed(world, server, folder)}")
        text, restore_s = restore(world, server, folder, whole)
        print(f"  {text}")
        text, recovery_s = to_any_moment(world, server, folder, archive)
        print(f"  {text}")
        size = dumps(folder)[-1].stat().st_size
        print(f"  RTO: {ROWS} rows ({size / 1e6:.1f} MB dump) backed up in {backup_s:.1f} s, restored and checked in {restore_s:.1f} s;")
        print(f"       a lost disk recovered in {recovery_s:.1f} s. RPO: one night with dumps, 300 s (archive_timeout) with the log.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

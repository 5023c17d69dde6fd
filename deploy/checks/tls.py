"""The settings of components/tls with real certificates, real servers and our processes: tls.py SCRATCH_FOLDER"""

import base64
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import live
from live import OPS_ENV, ROOT, World, ask, free_port, get, wait_for


def same_but_for_tls() -> str:
    """The base's file and the component's say the same in everything else."""
    def settings(text):
        text = re.sub(r"tls \{[^}]*\}", "", text)
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith(("#", "tls-", "port 0"))]

    for name in ("nats", "redis"):
        with_tls = (ROOT / f"deploy/components/tls/{name}.conf").read_text()
        plain = (ROOT / f"deploy/base/{name}/{name}.conf").read_text()
        assert settings(with_tls) == settings(plain), f"components/tls/{name}.conf has drifted from base/{name}/{name}.conf"
    return "the base's settings of NATS and Redis, and TLS"


def certificates(folder: Path) -> None:
    """An authority, a certificate of a server at 127.0.0.1 and one of a client."""
    def run(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("req", "-x509", *key, "-days", "2", "-subj", "/CN=inside", "-keyout", "ca.key", "-out", "ca.crt")
    for name, usage, alternative in (
        ("server", "serverAuth,clientAuth", "IP:127.0.0.1,DNS:nats.vlinders-platform.svc"),
        ("client", "clientAuth", "DNS:client"),
    ):
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\nextendedKeyUsage={usage}\n")
        run("req", "-new", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", f"{name}.ext", "-out", f"{name}.crt")


def server(world: World, tls: Path) -> int:
    """A single server with the deployed file: other ports, other folders, no neighbours."""
    text = (ROOT / "deploy/components/tls/nats.conf").read_text()
    port, monitor = free_port(), free_port()
    text = re.sub(r"cluster \{.*?\n\}\n", "", text, flags=re.DOTALL)
    for old, new in (
        ("0.0.0.0:4222", f"127.0.0.1:{port}"),
        ("0.0.0.0:8222", f"127.0.0.1:{monitor}"),
        ("/run/nats/nats.pid", f"{world.folder}/nats.pid"),
        ("/data", f"{world.folder}/nats-data"),
        ("/etc/nats/tls/tls.", f"{tls}/server."),
        ("/etc/nats/tls/", f"{tls}/"),
    ):
        assert old in text, f"nats.conf has no {old} any more"
        text = text.replace(old, new)
    (world.folder / "auth").mkdir()
    users = (ROOT / "deploy/base/nats/users.conf").read_text()
    for user in ("frontend", "worker", "usage"):
        made = subprocess.run([ROOT / "deploy/nkey", world.folder / user], check=True, capture_output=True, text=True)
        users = users.replace(f"nkey: {user.upper()}", f"nkey: {made.stdout.strip()}")
    (world.folder / "auth/users.conf").write_text(users)
    (world.folder / "nats.conf").write_text(text)
    world.start("nats", [OPS_ENV / "python/bin/nats-server", "-c", world.folder / "nats.conf"], {"POD_NAME": "nats-0"})
    wait_for("nats", lambda: get(f"http://127.0.0.1:{monitor}/healthz")[0] == 200)
    return port


def redis(world: World, tls: Path) -> int:
    port = free_port()
    text = (ROOT / "deploy/components/tls/redis.conf").read_text()
    (world.folder / "redis-data").mkdir()
    (world.folder / "auth.conf").write_text("requirepass word\n")
    for old, new in (
        ("tls-port 6379", f"tls-port {port}"),
        ("bind * -::*", "bind 127.0.0.1"),
        ("dir /data", f"dir {world.folder}/redis-data"),
        ("/etc/redis-tls/tls.", f"{tls}/server."),
        ("/etc/redis-tls/", f"{tls}/"),
        ("/etc/redis-auth/", f"{world.folder}/"),
    ):
        assert old in text, f"redis.conf has no {old} any more"
        text = text.replace(old, new)
    (world.folder / "redis.conf").write_text(text)
    world.start("redis", ["redis-server", world.folder / "redis.conf"])
    asked = ["redis-cli", "-p", str(port), "--tls", "--cacert", str(tls / "ca.crt"), "-a", "word", "--no-auth-warning"]
    answer = lambda: subprocess.run([*asked, "-e", "set", "vl:probe", "1", "EX", "60"], capture_output=True, text=True).stdout
    wait_for("redis", lambda: answer().strip() == "OK")
    return port


def postgres(world: World, tls: Path):
    """Wants a key that nobody else may read."""
    server = world.postgres(options=())
    for name in ("server.crt", "server.key"):
        copy = server.home / name
        copy.write_bytes((tls / name).read_bytes())
        copy.chmod(0o600)
        if server.user:
            shutil.chown(copy, server.user, server.user)
    server.end()
    server.options = ("ssl=on", f"ssl_cert_file={server.home}/server.crt", f"ssl_key_file={server.home}/server.key")
    server.start()
    server.sql("CREATE DATABASE vlinders", database="postgres")
    return server


def told(port: int, tls: Path, seed: Path, line: str) -> str:
    """What the server says to one line of somebody with a certificate of ours and this nkey."""
    context = ssl.create_default_context(cafile=tls / "ca.crt")
    context.load_cert_chain(tls / "client.crt", tls / "client.key")
    head = bytes.fromhex("302e020100300506032b657004220420")
    with socket.create_connection(("127.0.0.1", port), 10) as raw:
        greeting = json.loads(raw.recv(4096).split(b" ", 1)[1])
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
            (tls / "private").write_bytes(head + base64.b32decode(seed.read_text().strip() + "======")[2:34])
            (tls / "nonce").write_text(greeting["nonce"])
            sign = ["openssl", "pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", tls / "private", "-in", tls / "nonce"]
            signature = subprocess.run(sign, check=True, capture_output=True).stdout
            public = subprocess.run([ROOT / "deploy/nkey", seed], check=True, capture_output=True, text=True).stdout.strip()
            login = {"nkey": public, "sig": base64.urlsafe_b64encode(signature).decode().rstrip("="), "verbose": False, "pedantic": False, "lang": "x", "version": "1"}
            sock.sendall(f"CONNECT {json.dumps(login)}\r\n{line}PING\r\n".encode())
            answer = b""
            while b"PONG" not in answer and b"-ERR" not in answer:
                more = sock.recv(4096)
                assert more, answer
                answer += more
            return answer.decode()


def everybody_may_what_is_theirs(world: World, port: int, tls: Path) -> str:
    """After the permissions of base/nats/users.conf; that processes may what they need is seen by their work."""
    count = 0
    for user, lines in {
        "frontend": ["PUB $JS.API.STREAM.DELETE.VL_REQ 0", "PUB $JS.API.CONSUMER.MSG.NEXT.VL_USAGE.usage 0", "SUB vl.req.> 1"],
        "worker": ["PUB $JS.API.STREAM.PURGE.VL_REQ 0", "PUB $JS.API.CONSUMER.MSG.NEXT.VL_USAGE.usage 0", "SUB vl.tok.> 1"],
        "usage": ["PUB $JS.API.CONSUMER.MSG.NEXT.VL_REQ.x 0", "PUB vl.req.m.q 0", "SUB vl.tok.> 1", "PUB $JS.API.STREAM.MSG.GET.VL_REQ 0"],
    }.items():
        assert "PONG" in told(port, tls, world.folder / user, "PUB vl.hb.x 0\r\n\r\n"), user
        for line in lines:
            said = told(port, tls, world.folder / user, f"{line}\r\n" + ("\r\n" if line.startswith("PUB") else ""))
            assert "Permissions Violation" in said, f"{user} may {line}: {said}"
            count += 1
    (world.folder / "nobody").unlink(missing_ok=True)
    subprocess.run([ROOT / "deploy/nkey", world.folder / "nobody"], check=True, capture_output=True)
    assert "Authorization Violation" in told(port, tls, world.folder / "nobody", ""), "an nkey that nobody knows is let in"
    return f"{count} things that somebody may not do are refused by name; an unknown nkey is not let in"


def backup_checks_the_name(world: World, database, tls: Path) -> str:
    """As components/tls sets it for the jobs."""
    (world.folder / "backups").mkdir()
    backup = ["sh", ROOT / "deploy/components/backup/backup.sh", world.folder / "backups"]
    for authority, succeeds in (("ca.crt", True), ("other/ca.crt", False)):
        env = {**os.environ, **database.env("vlinders"), "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(tls / authority)}
        done = subprocess.run(backup, env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == succeeds, done.stderr
    return "a backup is made over verify-full, and none from a server that another authority vouches for"


def stranger_is_refused(port: int, tls: Path) -> str:
    """Somebody without a certificate of ours reads the greeting and gets no further."""
    context = ssl.create_default_context(cafile=tls / "ca.crt")
    with socket.create_connection(("127.0.0.1", port), 5) as raw:
        raw.recv(4096)
        try:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
                sock.settimeout(5)
                sock.sendall(b"CONNECT {}\r\nPING\r\n")
                told = sock.recv(100)
                assert not told, told
        except (ssl.SSLError, ConnectionError):
            pass
    return "nobody gets in without a certificate"


def main() -> int:
    with World(Path(sys.argv[1])) as world:
        print(f"  {same_but_for_tls()}")
        tls = world.folder / "tls"
        tls.mkdir()
        certificates(tls)
        port = server(world, tls)
        print(f"  {stranger_is_refused(port, tls)}")
        print(f"  {everybody_may_what_is_theirs(world, port, tls)}")
        (world.folder / "password").write_text("word\n")
        world.nats_url = f"tls://127.0.0.1:{port}"
        common = {
            "NATS_CA_FILE": str(tls / "ca.crt"),
            "NATS_CERT_FILE": str(tls / "client.crt"),
            "NATS_KEY_FILE": str(tls / "client.key"),
        }
        nkey = {user: {"NATS_NKEY_FILE": str(world.folder / user)} for user in ("frontend", "worker", "usage")}
        for role in ("prefill", "decode"):
            world.worker(role, role, KV_TRANSPORTS="tcp", **common, **nkey["worker"])
        database = postgres(world, tls)
        ledger = {
            "DATABASE_URL": f"{database.url('vlinders')}?sslmode=verify-full",
            "DATABASE_CA_FILE": str(tls / "ca.crt"),
        }
        limits = {
            "REDIS_URL": f"rediss://127.0.0.1:{redis(world, tls)}/0",
            "REDIS_CA_FILE": str(tls / "ca.crt"),
            "REDIS_PASSWORD_FILE": str(world.folder / "password"),
            "RATE_LIMIT_RPM": "1000",
        }
        world.worker("usage", "usage", **common, **ledger, **nkey["usage"])
        _, frontend = world.frontend("frontend", **common, **ledger, **limits, **nkey["frontend"])
        wait_for("the frontend", lambda: get(f"http://127.0.0.1:{frontend}/ready")[0] == 200)
        status, text = ask(frontend, {"model": "vlinders-demo", "prompt": "hi", "max_tokens": 3})
        assert status == 200, text
        metrics = lambda: get(f"http://127.0.0.1:{frontend}/metrics")[1]
        wait_for("the limiter", lambda: re.search(r"vlinders_limiter_up(\{\})? 1", metrics()))
        wait_for("the bill", lambda: database.sql("SELECT count(*) FROM usage") == "1")
        encrypted = database.sql("SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE s.ssl AND a.datname = 'vlinders'")
        assert int(encrypted) >= 1, encrypted
        # An authority that is not ours: the server is not believed.
        (tls / "other").mkdir()
        certificates(tls / "other")
        believing, _ = world.worker(
            "usage", "usage-elsewhere", **common, **nkey["usage"], **(ledger | {"DATABASE_CA_FILE": str(tls / "other/ca.crt")}), START_LIMIT_S="3"
        )
        wait_for("a usage service that does not believe the server to give up", lambda: believing.child.poll() is not None)
        assert believing.child.returncode != 0, believing.said()
        print("  usage and frontend over verify-full and rediss://: the bill is in Postgres, the limiter takes writes; another authority is refused")
        print(f"  {backup_checks_the_name(world, database, tls)}")
        without = {name: value for name, value in common.items() if not name.startswith(("NATS_CERT", "NATS_KEY"))}
        stranger, _ = world.worker("prefill", "stranger", START_LIMIT_S="3", **without, **nkey["worker"])
        wait_for("a worker without a certificate to give up", lambda: stranger.child.poll() is not None)
        assert stranger.child.returncode != 0, stranger.said()
        print("  frontend, prefill and decode serve a request over tls:// with nkeys, and certificates on both sides; one without gives up")
    return 0


if __name__ == "__main__":
    sys.exit(main())

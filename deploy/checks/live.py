"""Real processes for the checks: servers and roles of the program on free ports of 127.0.0.1, in a scratch folder. Everything
that was started is ended, by its id. VLINDERS names the program, OPS_ENV the folder of deploy/checks/tools."""

import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPS_ENV = Path(os.environ["OPS_ENV"])
VLINDERS = os.environ.get("VLINDERS", "")
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: str, condition, patience_s: float = PATIENCE_S):
    """The first true value of a condition. An error of the connection means not yet."""
    deadline = time.monotonic() + patience_s
    last = None
    while time.monotonic() < deadline:
        try:
            value = condition()
            if value:
                return value
        except (OSError, http.client.HTTPException, ValueError, subprocess.CalledProcessError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"waited {patience_s:g} s in vain: {what} ({last})")


def get(url: str, timeout: float = 5):
    """Status and body; also of refusals."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Process:
    def __init__(self, name: str, command: list, folder: Path, env: dict | None = None, user: str | None = None):
        self.name, self.log = name, folder / f"{name}.log"
        ids = {}
        if user and os.geteuid() == 0:
            entry = pwd.getpwnam(user)
            ids = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=folder,
                **ids,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def end(self, how: int = signal.SIGTERM, patience_s: float = 20) -> None:
        if self.child.poll() is not None:
            return
        self.child.send_signal(how)
        try:
            self.child.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class World(contextlib.ExitStack):
    """A scratch folder and what runs in it."""

    def __init__(self, folder: Path):
        super().__init__()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self.folder = folder

    def start(self, name, command, env=None, user=None) -> Process:
        process = Process(name, command, self.folder, env, user)
        self.callback(process.end)
        return process

    # Servers

    def nats(self) -> str:
        port, self.nats_monitor = free_port(), free_port()
        self.nats_url = f"nats://127.0.0.1:{port}"
        command = [OPS_ENV / "python/bin/nats-server", "-a", "127.0.0.1", "-p", port, "-m", self.nats_monitor]
        self.start("nats", [*command, "-js", "-sd", self.folder / "nats-data"])
        wait_for("nats", lambda: get(f"http://127.0.0.1:{self.nats_monitor}/healthz")[0] == 200)
        return self.nats_url

    def redis(self) -> str:
        port = free_port()
        self.redis_process = self.start(
            "redis", ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        )
        wait_for("redis", lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        return f"redis://127.0.0.1:{port}/0"

    def postgres(self, name: str = "postgres", options: tuple = ()) -> "Postgres":
        server = Postgres(self, name, options)
        server.start()
        return server

    # Roles

    def role(self, role: str, name: str, env: dict, flags: tuple = ()) -> Process:
        common = {
            "NATS_URL": self.nats_url,
            "DATA_DIR": str(self.folder / "data"),
            "KV_SOCKET_DIR": str(self.folder / "kv"),
            "KV_MEMORY_MIB": "64",
            "COMPUTE_THREADS": "1",
            "IO_THREADS": "2",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "info",
            "DRAIN_S": "10",
        }
        return self.start(name, [VLINDERS, role, *flags], {**common, **env})

    def worker(self, role: str, name: str, flags: tuple = (), **env) -> tuple[Process, int]:
        port = free_port()
        env = {"HEALTH_LISTEN": f"127.0.0.1:{port}", "WORKER_NAME": name, **env}
        return self.role(role, name, env, flags), port

    def frontend(self, name: str, **env) -> tuple[Process, int]:
        port = free_port()
        return self.role("frontend", name, {"LISTEN": f"127.0.0.1:{port}", **env}), port


class Postgres:
    """A server of its own; as root it runs as the user postgres."""

    def __init__(self, world: World, name: str, options: tuple):
        self.world, self.name, self.options = world, name, options
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
        self.bin = found[-1].parent if found else Path(shutil.which("initdb") or "").parent
        self.port = free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        self.home = world.folder / name
        self.home.mkdir()
        if self.user:
            shutil.chown(self.home, self.user, self.user)
        as_user = {}
        if self.user:
            entry = pwd.getpwnam(self.user)
            as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        subprocess.run(
            [self.bin / "initdb", "-U", "vlinders", "-A", "trust", "-D", self.home / "data", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd=self.home, **as_user,
        )
        self.process = None

    def start(self) -> None:
        command = [self.bin / "postgres", "-D", self.home / "data", "-p", self.port, "-k", self.home]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60"]
        for option in self.options:
            command += ["-c", option]
        self.process = self.world.start(self.name, command, user=self.user)
        wait_for(self.name, lambda: self.sql("SELECT 1", database="postgres") == "1")

    def end(self, how: int = signal.SIGINT) -> None:
        self.process.end(how)

    def url(self, database: str) -> str:
        return f"postgres://vlinders@127.0.0.1:{self.port}/{database}"

    def env(self, database: str) -> dict:
        # Its own version's programs go before others.
        path = f"{self.bin}:{os.environ['PATH']}"
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "vlinders", "PGDATABASE": database, "PATH": path}

    def sql(self, text: str, database: str = "vlinders") -> str:
        told = subprocess.run(
            [self.bin / "psql", "-XqtA", "-v", "ON_ERROR_STOP=1", "-c", text],
            env={**os.environ, **self.env(database), "PGCONNECT_TIMEOUT": "3"}, capture_output=True, text=True, check=True,
        )
        return told.stdout.strip()


def ask(port: int, body: dict, path: str = "/v1/completions", headers: dict | None = None, timeout: float = 60):
    """Status and body of one request to a frontend."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

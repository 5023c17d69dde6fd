"""nginx as compose/ runs it, in front of real frontends: nginx.py SCRATCH_FOLDER

Only the ports, the addresses of the frontends, the place of the certificate and the rates differ from what is deployed."""

import concurrent.futures
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy/checks"))
import live  # noqa: E402
from live import OPS_ENV, ROOT, World, free_port, wait_for  # noqa: E402

KEY = {"authorization": "Bearer one", "content-type": "application/json"}
STREAM = {"model": "vlinders-demo", "prompt": "What is Vlinders?", "max_tokens": 40, "stream": True, "ignore_eos": True}


class Front:
    """Requests through nginx."""

    def __init__(self, port: int, plain: int, status: int):
        self.port, self.plain, self.status = port, plain, status
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.tls)

    def ask(self, method: str, path: str, body=None, headers=None):
        connection = self.connection()
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text


def configuration(world: World, frontends: list[int], rate: int, connections: int) -> tuple[Path, int, int, int]:
    """The deployed files with other addresses."""
    folder = world.folder / f"nginx-{rate}-{connections}"
    included = folder / "vlinders"
    included.mkdir(parents=True)
    plain, tls, status = free_port(), free_port(), free_port()
    source = ROOT / "compose/nginx"
    text = (source / "nginx.conf").read_text()
    mime = OPS_ENV / "debian/etc/nginx/mime.types"
    for old, new in (
        # First, since the other paths may lie below it.
        ("/tmp/", f"{folder}/"),
        ("listen 8080;", f"listen 127.0.0.1:{plain};"),
        ("listen [::]:8080;", ""),
        ("listen 8443 ssl;", f"listen 127.0.0.1:{tls} ssl;"),
        ("listen [::]:8443 ssl;", ""),
        ("listen 8081;", f"listen 127.0.0.1:{status};"),
        ("/etc/nginx/mime.types", str(mime)),
        ("/etc/nginx/vlinders/", f"{included}/"),
        ("/etc/nginx/tls/", f"{world.folder}/tls."),
        ("/dev/stdout", f"{folder}/access.log"),
        ("limit_conn conn_by_key 256;", f"limit_conn conn_by_key {connections};"),
    ):
        assert old in text, f"nginx.conf has no {old} any more"
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text.replace("tls.tls.", "tls."))
    limits = (source / "limits.conf").read_text()
    assert "rate=100r/s" in limits
    (included / "limits.conf").write_text(limits.replace("rate=100r/s", f"rate={rate}r/s"))
    upstream = (source / "upstream.conf").read_text()
    wanted = "server frontend:8000 max_fails=3 fail_timeout=30s;"
    assert wanted in upstream
    servers = "\n".join(wanted.replace("frontend:8000", f"127.0.0.1:{port}") for port in frontends)
    (included / "upstream.conf").write_text(upstream.replace(wanted, servers))
    (included / "trusted-proxies.conf").write_text((source / "trusted-proxies.conf").read_text())
    return folder / "nginx.conf", plain, tls, status


def start(world: World, frontends: list[int], rate: int, connections: int = 256) -> Front:
    path, plain, tls, status = configuration(world, frontends, rate, connections)
    program = OPS_ENV / "debian/usr/sbin/nginx"
    tested = subprocess.run([program, "-t", "-c", path, "-e", "stderr"], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    warnings = [line for line in tested.stderr.splitlines() if "[warn]" in line]
    assert not warnings, warnings
    # Its wish to buffer answers would hold tokens back; a slow reader is paused and cancelled by the frontend.
    command = [OPS_ENV / "python/bin/gixy", "--skips", "proxy_buffering_off", path]
    gixy = subprocess.run(command, capture_output=True, text=True)
    assert gixy.returncode == 0 and "No issues found" in gixy.stdout, gixy.stdout + gixy.stderr
    world.start(f"nginx-{rate}-{connections}", [program, "-c", path, "-e", "stderr", "-g", "daemon off;"])
    front = Front(tls, plain, status)
    wait_for("nginx", lambda: front.ask("GET", "/health")[0].status == 200)
    return front


def redirects(front: Front) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", front.plain, timeout=10)
    connection.request("POST", "/v1/completions?a=b", "{}", {"host": "api.example.com"})
    answer = connection.getresponse()
    assert answer.status == 308, answer.status
    assert answer.headers["location"] == "https://api.example.com/v1/completions?a=b", answer.headers["location"]
    return "a POST over http is answered with 308"


def closed(front: Front) -> str:
    for path in ("/metrics", "/ready", "/live", "/version", "/nginx_status", "/v1/../metrics", "/%6detrics"):
        answer, text = front.ask("GET", path)
        assert answer.status == 404 and "vlinders_" not in text, f"{path}: {answer.status} {text[:100]}"
    status, text = live.get(f"http://127.0.0.1:{front.status}/nginx_status")
    assert status == 200 and "Active connections" in text, text
    return "/metrics and its like are closed; /nginx_status answers beside"


def headers(front: Front) -> str:
    answer, text = front.ask("GET", "/v1/models", headers=KEY)
    assert answer.status == 200 and "vlinders-demo" in text, text
    assert answer.headers["strict-transport-security"] and answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"\d", answer.headers["server"]), answer.headers["server"]
    assert answer.headers["x-request-id"], "the frontend's headers come through"
    return "security headers; no version of the server"


def compresses_no_stream(front: Front) -> str:
    wanted = {**KEY, "accept-encoding": "gzip"}
    answer, _ = front.ask("POST", "/v1/completions", json.dumps(STREAM), wanted)
    assert answer.headers.get("content-encoding") is None, answer.headers["content-encoding"]
    assert answer.headers["content-type"].startswith("text/event-stream")
    return "a stream is not compressed"


def streams(front: Front) -> str:
    """Each event is here long before the last one: nothing in between waits for a full buffer."""
    connection = front.connection()
    connection.request("POST", "/v1/completions", json.dumps({**STREAM, "max_tokens": 300}), KEY)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    times = []
    while line := answer.readline():
        if line.startswith(b"data: "):
            times.append(time.monotonic())
    apart = [b - a for a, b in zip(times, times[1:])]
    distinct = sum(gap > 0.004 for gap in apart)
    assert len(times) > 40, f"{len(times)} events"
    # With a step of 10 ms, a buffered answer would come as one clump, on however busy a machine.
    assert distinct > 30, f"{distinct} of {len(apart)} gaps are real"
    return f"{len(times)} events of a stream came one by one over {times[-1] - times[0]:.2f} s"


def large_bodies(front: Front) -> str:
    answer, _ = front.ask("POST", "/v1/completions", b"x" * (11 << 20), KEY)
    assert answer.status == 413, answer.status
    # What a frontend says to it is its own business; that it says it names the request.
    answer, text = front.ask("POST", "/v1/files", b"x" * (11 << 20), KEY)
    assert answer.headers["x-request-id"] and "nginx" not in text, f"{answer.status} {text[:200]}"
    return "a body of 11 MiB is refused with 413, and goes on to a frontend as a file"


def slow_heads(front: Front) -> str:
    """A client that never finishes its head holds a connection for 10 s, and none of a frontend's."""
    raw = socket.create_connection(("127.0.0.1", front.port), 30)
    with front.tls.wrap_socket(raw) as sock:
        began = time.monotonic()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
        ended = sock.recv(100)
        assert 8 < time.monotonic() - began < 20, time.monotonic() - began
        assert ended == b"" or ended.startswith(b"HTTP/1.1 408"), ended
    return "a head that does not end is cut after 10 s"


def limits(front: Front) -> str:
    """At a request a second and a burst of 20, 40 streams at once: some pass, the others read 429 as the API says it."""
    def one(index: int):
        return front.ask("POST", "/v1/chat/completions", json.dumps(
            {"model": "vlinders-demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}), KEY)

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(one, range(40)))
    took = time.monotonic() - began
    statuses = [answer.status for answer, _ in answers]
    refused = [(answer, text) for answer, text in answers if answer.status == 429]
    assert set(statuses) == {200, 429}, sorted(statuses)
    assert 20 <= statuses.count(200) <= 22 + took, f"{statuses.count(200)} in {took:.1f} s"
    for answer, text in refused:
        assert answer.headers["retry-after"] == "1" and answer.headers["content-type"] == "application/json", answer.headers
        assert json.loads(text)["error"]["code"] == "rate_limit_exceeded", text
    other, _ = front.ask("GET", "/v1/models", headers={"authorization": "Bearer two"})
    assert other.status == 200, "another key behind the same address is not limited"
    return f"{statuses.count(200)} of 40 at once passed, {len(refused)} read 429; another key passed"


def connections(front: Front) -> str:
    """With four connections for a key, its fifth stream at one time reads 429, and another key's first does not."""
    body = json.dumps({**STREAM, "max_tokens": 2000})
    held = []
    for _ in range(4):
        connection = front.connection()
        connection.request("POST", "/v1/completions", body, KEY)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.readline(), answer.status
        held.append(connection)
    answer, text = front.ask("POST", "/v1/completions", body, KEY)
    assert answer.status == 429, text[:200]
    other = {**KEY, "authorization": "Bearer two"}
    answer, text = front.ask("POST", "/v1/completions", json.dumps({**STREAM, "max_tokens": 2}), other)
    assert answer.status == 200, text
    for connection in held:
        connection.close()
    return "a key's fifth stream read 429 where four are allowed; another key passed"


def failover(front: Front, frontends: list) -> str:
    """Any request on any frontend: one is killed, requests go on."""
    frontends[0].child.kill()
    frontends[0].child.wait()
    body = json.dumps({**STREAM, "stream": False, "max_tokens": 2})
    statuses = [front.ask("POST", "/v1/completions", body, KEY)[0].status for _ in range(10)]
    assert statuses == [200] * 10, statuses
    return "one of two frontends was killed: 10 of 10 requests were answered"


def main() -> int:
    with World(Path(sys.argv[1])) as world:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-keyout", world.folder / "tls.key", "-out", world.folder / "tls.crt"],
            check=True, capture_output=True,
        )
        world.nats()
        # A sequence's step takes 10 ms, so that a stream has a course.
        for role in ("prefill", "decode"):
            port = free_port()
            env = {"HEALTH_LISTEN": f"127.0.0.1:{port}", "WORKER_NAME": role, "NATS_URL": world.nats_url,
                   "DATA_DIR": str(world.folder / "data"), "KV_MEMORY_MIB": "64"}
            world.start(role, [live.VLINDERS, role, "--backend", "sim", "--sim-step-us", "10000"], env)
        frontends, ports = [], []
        for index in range(2):
            process, port = world.frontend(f"frontend-{index}")
            frontends.append(process)
            ports.append(port)
        for port in ports:
            wait_for("a frontend", lambda port=port: live.get(f"http://127.0.0.1:{port}/ready")[0] == 200)
        front = start(world, ports, 100)
        for test in (redirects, closed, headers, compresses_no_stream, streams, large_bodies, slow_heads):
            print(f"  {test(front)}")
        print(f"  {limits(start(world, ports, 1))}")
        print(f"  {connections(start(world, ports, 100, 4))}")
        print(f"  {failover(front, frontends)}")
        log = (world.folder / "nginx-100-256/access.log").read_text()
        assert "rt=" in log and 'urt="' in log and "/health" not in log and "Bearer" not in log, log[-500:]
        print("  the access log has times, no health checks and no keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())

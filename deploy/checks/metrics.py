"""Real processes, a real Prometheus and what we say about both: metrics.py SCRATCH_FOLDER

Starts a cluster, gives it work and kills a worker. Then: every name vlinders_* in deploy/ and compose/ is in a live /metrics;
the relabel rules of prometheus.yml, fed with labels as Kubernetes gives them, lead Prometheus to these processes and name
them as the autoscaler needs; recording rules and expressions give numbers; the log is as the log tools expect."""

import concurrent.futures
import http.client
import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import yaml

import live
from live import OPS_ENV, ROOT, World, ask, free_port, get, wait_for

MODEL = "vlinders-demo"
# Not metrics: parts of a database's name in the runbook and in a script.
OTHER_NAMES = {"vlinders_before_", "vlinders_restoring", "vlinders_before"}
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def names_used() -> dict[str, set[str]]:
    """Name -> files that speak of it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "deploy", "compose"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    found: dict[str, set[str]] = {}
    for path in listed:
        if path.endswith(".png") or path == "deploy/checks/metrics.py" or not (ROOT / path).is_file():
            continue
        for name in re.findall(r"\bvlinders_[a-z0-9_]+", (ROOT / path).read_text(errors="replace")):
            if name not in OTHER_NAMES and not name.startswith("vlinders_before_"):
                found.setdefault(name, set()).add(path)
    return found


def names_shown(text: str) -> set[str]:
    shown = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            shown |= {name + suffix for suffix in {"counter": ("_total",), "histogram": SUFFIXES[1:]}.get(kind, ("",))}
    return shown


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes traces and forgets them."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def read_stream(port: int, tokens: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"model": MODEL, "prompt": "Tell me of moths.", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def cluster(world: World):
    """Two frontends, prefill, two decode workers and usage; name -> (service, port)."""
    world.nats()
    redis = world.redis()
    postgres = world.postgres()
    postgres.sql("CREATE DATABASE vlinders", database="postgres")
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    world.callback(collector.shutdown)
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    pods, processes = {}, {}

    def start(service, name, **env):
        process, port = (world.frontend if service == "frontend" else lambda n, **e: world.worker(service, n, **e))(name, **env, **traces)
        pods[name], processes[name] = (service, port), process

    start("usage", "usage-0", DATABASE_URL=postgres.url("vlinders"))
    # A step takes 5 ms, so that there is time to kill somebody in the middle of a stream.
    slowly = {"flags": ("--backend", "sim", "--sim-step-us", "5000")}
    start("prefill", "prefill-0", **slowly)
    start("decode", "decode-0", **slowly)
    start("decode", "decode-1", **slowly)
    for index in range(2):
        start("frontend", f"frontend-{index}", REDIS_URL=redis, RATE_LIMIT_RPM="100000")
    for name, (_, port) in pods.items():
        wait_for(f"{name} to be ready", lambda port=port: get(f"http://127.0.0.1:{port}/ready")[0] == 200)
    return pods, processes, postgres


def work(pods, processes, postgres) -> str:
    """Requests of all kinds; a decode worker is killed under streams, and they go on."""
    port = pods["frontend-0"][1]
    assert ask(port, {"model": MODEL, "prompt": "hi", "max_tokens": 3})[0] == 200
    assert ask(port, {"model": "nobody", "prompt": "hi"})[0] == 404
    metrics = [f"http://127.0.0.1:{pods[name][1]}/metrics" for name in ("frontend-0", "frontend-1")]
    for _ in range(4):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            streams = [pool.submit(read_stream, pods[f"frontend-{i % 2}"][1], 400) for i in range(16)]
            victim = "decode-1"
            if victim in processes:
                held = lambda: re.search(r'vlinders_sequences_running\{role="decode"\} [1-9]', get(f"http://127.0.0.1:{pods[victim][1]}/metrics")[1])
                wait_for("the victim to hold streams", held)
                processes.pop(victim).child.kill()
                pods.pop(victim)
            texts = [stream.result() for stream in streams]
        broken = [text for text in texts if "[DONE]" not in text or 'data: {"error"' in text]
        assert not broken, f"{len(broken)} of {len(texts)} streams broke: {broken[0][-600:]}"
        if any("vlinders_failovers_total{" in get(url)[1] for url in metrics):
            break
    wait_for("all bills", lambda: int(postgres.sql("SELECT count(*) FROM usage")) >= 17)
    return "16 streams outlived the kill -9 of a decode worker; every bill is in Postgres"


def contract(pods) -> str:
    shown = set()
    for _, port in pods.values():
        shown |= names_shown(get(f"http://127.0.0.1:{port}/metrics")[1])
    used = names_used()
    missing = {name: files for name, files in used.items() if name not in shown and not any(name + s in shown for s in SUFFIXES)}
    faults = [f"{name} is in no /metrics: {', '.join(sorted(files))}" for name, files in sorted(missing.items())]
    recorded = set()
    for path in (ROOT / "deploy/components/monitoring/rules").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            recorded |= {rule["record"] for rule in group["rules"] if "record" in rule}
    for path in [*(ROOT / "deploy").rglob("*.yml"), *(ROOT / "deploy").rglob("*.json")]:
        for name in re.findall(r"\bvlinders:[a-z0-9_:]+", path.read_text()):
            if name not in recorded:
                faults.append(f"{name} is recorded nowhere: {path.relative_to(ROOT)}")
    assert not faults, "\n" + "\n".join(faults)
    return f"{len(used)} names used, all of them in a live /metrics ({len(shown)} there)"


# Prometheus

def meta(address, service, namespace, name, port, **more):
    labels = {
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
        "__meta_kubernetes_pod_annotation_prometheus_io_path": "/metrics",
        "__meta_kubernetes_pod_annotation_prometheus_io_port": str(port),
        "__meta_kubernetes_namespace": namespace,
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_node_name": "node-1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": service,
    }
    labels.update({f"__meta_kubernetes_{key}": value for key, value in more.items()})
    return {"targets": [address], "labels": {key: value for key, value in labels.items() if value is not None}}


def as_kubernetes_says(pods, ipv6_port):
    """Each process as discovery would tell of it: a target for each port of its pod."""
    targets = []
    for name, (service, port) in pods.items():
        namespace = "vlinders-inference" if service in ("prefill", "decode") else "vlinders-platform"
        for other in (1111, 2222):
            targets.append(meta(f"127.0.0.1:{other}", service, namespace, name, port))
    if ipv6_port:
        targets.append(meta("[::1]:9999", "usage", "vlinders-platform", "usage-6", ipv6_port))
    first = pods["usage-0"][1]
    targets.append(meta("127.0.0.1:1", "usage", "vlinders-platform", "quiet", first, pod_annotation_prometheus_io_scrape=None))
    targets.append(meta("127.0.0.1:1", "usage", "vlinders-platform", "ended", first, pod_phase="Succeeded"))
    for service in ("nats", "redis", "postgres", "grafana"):
        targets.append(meta("10.0.0.1:1", service, "vlinders-platform", f"{service}-0", 7))
    targets.append({"targets": ["10.0.0.9:10250"], "labels": {"__meta_kubernetes_node_name": "node-9"}})
    targets.append({"targets": ["[fd00::9]:10250"], "labels": {"__meta_kubernetes_node_name": "node-9"}})
    for port in ("metrics", "other"):
        labels = {"__meta_kubernetes_pod_label_app": "nvidia-dcgm-exporter", "__meta_kubernetes_pod_container_port_name": port}
        targets.append({"targets": ["10.0.0.8:9400" if port == "metrics" else "10.0.0.8:1"], "labels": labels})
    return targets


def prometheus(world: World, targets) -> str:
    """The deployed configuration, with files in place of Kubernetes' API and shorter pauses; its address."""
    monitoring = ROOT / "deploy/components/monitoring"
    config = yaml.safe_load((monitoring / "prometheus.yml").read_text())
    (world.folder / "targets.json").write_text(json.dumps(targets))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(monitoring / "rules/*.yml")]
    config.pop("alerting")
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["file_sd_configs"] = [{"files": [str(world.folder / "targets.json")]}]
    rules = []
    for path in sorted((monitoring / "rules").glob("*.yml")):
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            group["interval"] = "1s"
        copy = world.folder / path.name
        copy.write_text(yaml.safe_dump(content))
        rules.append(str(copy))
    config["rule_files"] = rules
    file = world.folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [OPS_ENV / "debian/usr/bin/prometheus", f"--config.file={file}", f"--storage.tsdb.path={world.folder}/tsdb"]
    world.start("prometheus", [*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"])
    address = f"http://127.0.0.1:{port}"
    wait_for("prometheus", lambda: get(f"{address}/-/ready")[0] == 200)
    return address


def query(address: str, expression: str) -> list:
    status, text = get(f"{address}/api/v1/query?query={urllib.parse.quote(expression)}")
    assert status == 200, text
    return json.loads(text)["data"]["result"]


def relabelling(address: str, pods, ipv6_port) -> str:
    def active():
        found = json.loads(get(f"{address}/api/v1/targets?state=active")[1])["data"]["activeTargets"]
        by_job = {}
        for target in found:
            by_job.setdefault(target["labels"]["job"], []).append(target)
        ours = by_job.get("vlinders", [])
        return by_job if ours and all(target["health"] == "up" for target in ours) else None

    by_job = wait_for("every process of ours to be read", active)
    names = sorted(target["labels"]["pod"] for target in by_job["vlinders"])
    wanted = sorted([*pods, *(["usage-6"] if ipv6_port else [])])
    assert names == wanted, f"{names} instead of {wanted}"
    for target in by_job["vlinders"]:
        labels = target["labels"]
        assert labels["service"] in ("frontend", "usage", "prefill", "decode") and labels["node"] == "node-1", labels
        assert labels["namespace"].startswith("vlinders-"), labels
    if ipv6_port:
        six = [target for target in by_job["vlinders"] if target["labels"]["pod"] == "usage-6"]
        assert six[0]["labels"]["instance"] == f"[::1]:{ipv6_port}", six[0]["labels"]
    for job, service in (("nats", "nats"), ("redis-exporter", "redis"), ("postgres-exporter", "postgres")):
        assert [target["labels"]["pod"] for target in by_job[job]] == [f"{service}-0"], by_job[job]
    others = {target["labels"]["service"] for target in by_job["kubernetes-pods"] if "service" in target["labels"]}
    assert others == {"grafana"}, others
    nodes = sorted(t["scrapeUrl"] for t in by_job["node-exporter"] if t["labels"].get("node") == "node-9")
    assert nodes == ["http://10.0.0.9:9100/metrics", "http://[fd00::9]:9100/metrics"], nodes
    devices = [target["scrapeUrl"] for target in by_job["dcgm-exporter"]]
    assert devices == ["http://10.0.0.8:9400/metrics"], devices
    six_said = " and IPv6" if ipv6_port else " (this machine has no IPv6)"
    return f"{len(names)} processes of ours read at IPv4{six_said}; what has no annotation, is over or is not meant, is left out"


def numbers(address: str, pods) -> str:
    """What autoscaling and dashboards ask gives an answer."""
    sys.path.insert(0, str(ROOT / "deploy/checks"))
    import expressions

    per_pod = 'sum(avg_over_time(vlinders_sequences_running{namespace="vlinders-inference"}[1m])) by (pod)'
    found = wait_for("numbers by pod", lambda: query(address, per_pod))
    assert {one["metric"]["pod"] for one in found} == {"prefill-0", "decode-0"}, found
    empty, filled = [], 0
    # A rate needs two readings with work between them.
    for name, expression in expressions.found():
        expression = expression.replace("$__rate_interval", "1m").replace('namespace="x"', 'namespace=~".+"')
        if query(address, expression):
            filled += 1
        elif not re.search(r"DCGM_|jetstream_|_misses:|hand_back|preemptions", expression):
            empty.append(f"{name}: {expression}")
    assert not empty, "\n" + "\n".join(empty)
    return f"{filled} expressions of dashboards and autoscaling give numbers here (those of GPUs and of the NATS exporter cannot)"


def logs(world: World) -> str:
    # The greeting on standard output is for people; the log is on standard error.
    text = (world.folder / "frontend-0.log").read_text().splitlines()
    lines = [json.loads(line) for line in text if line.startswith("{")]
    greeting = [line for line in text if not line.startswith("{")]
    assert len(greeting) <= 2, greeting
    over = [line for line in lines if line["message"] == "request finished"]
    assert over, "no request is in the log"
    for line in over:
        for field in ("@timestamp", "level", "message", "request_id", "request_time", "response_time", "status", "route"):
            assert field in line, f"{field} is missing: {line}"
    assert "moths" not in json.dumps(lines), "what was said is in the log"
    # As containerd writes it, with a line in between that is none of ours.
    cri = world.folder / "cri.log"
    cri.write_text("".join(f"2026-11-22T04:00:00.000000001Z stderr F {json.dumps(line)}\n" for line in lines) + "x\n")
    told = subprocess.run([ROOT / "deploy/log-analysis", cri], capture_output=True, text=True, check=True).stdout
    assert f"{len(lines)} lines" in told and "1 that are no JSON" in told and "response_time, ms: mean" in told, told
    assert re.search(r"\d+  200\n", told) and re.search(r"\d+  404\n", told), told
    return f"{len(over)} requests in a frontend's log with all fields; the analysis reads it as containerd writes it"


def main() -> int:
    with World(Path(sys.argv[1])) as world:
        pods, processes, postgres = cluster(world)
        print(f"  {work(pods, processes, postgres)}")
        print(f"  {contract(pods)}")
        ipv6_port = None
        try:
            with live.socket.socket(live.socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
                ipv6_port = probe.getsockname()[1]
        except OSError:
            pass
        if ipv6_port:
            env = {"HEALTH_LISTEN": f"[::1]:{ipv6_port}", "DATABASE_URL": postgres.url("vlinders")}
            world.role("usage", "usage-6", env)
        address = prometheus(world, as_kubernetes_says(pods, ipv6_port))
        print(f"  {relabelling(address, pods, ipv6_port)}")
        stop = threading.Event()

        def keep_busy():
            while not stop.is_set():
                ask(pods["frontend-0"][1], {"model": MODEL, "prompt": "more", "max_tokens": 8, "ignore_eos": True})
                read_stream(pods["frontend-1"][1], 8)

        busy = threading.Thread(target=keep_busy, daemon=True)
        busy.start()
        try:
            def settled():
                try:
                    return numbers(address, pods)
                except AssertionError as error:
                    raise ValueError(str(error)) from error

            print(f"  {wait_for('numbers', settled, 90)}")
        finally:
            stop.set()
            busy.join(30)
        print(f"  {logs(world)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Measures what serving costs beside the engine: a whole cluster on this machine whose engine takes no time.

    python3 loadtest/overhead.py [--duration 10] [--repeat 3] [--model DIR] [--json FILE]

Builds optimised programs, starts NATS, Postgres, Redis and two of each role (one usage service) with `--backend sim`, offers
the loads below in turn and prints the median of each figure. Everything runs on the same cores, the load generator too;
CPU is that of the roles, without the servers they use. Of the model only tokenizer and config are read; the built-in one has
no context for the longest prompts.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TICKS = 100


@dataclass(frozen=True)
class Row:
    """One load: the generator's flags, and the figures to take from its report."""

    name: str
    flags: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]


UNARY = ("--output-tokens", "16", "--prompt-tokens", "133", "--ignore-eos")
STREAM = ("--output-tokens", "128", "--prompt-tokens", "133", "--ignore-eos", "--stream")
RATE = ("requests/s", "throughput.requests_per_s")
LONG = Row(
    "unary, unique prompts of 7,000 tokens, 32 clients",
    ("--output-tokens", "16", "--prompt-tokens", "7000", "--ignore-eos", "--concurrency", "32"),
    (RATE,),
)
ROWS = (
    Row("unary, 16 tokens, 32 clients, repeated prompts", (*UNARY, "--concurrency", "32", "--prompts", "repeated"), (RATE,)),
    Row("unary, 16 tokens, 32 clients, unique prompts", (*UNARY, "--concurrency", "32"), (RATE,)),
    Row("unary, 16 tokens, 256 clients, repeated prompts", (*UNARY, "--concurrency", "256", "--prompts", "repeated"), (RATE,)),
    Row(
        "unary, 1 client",
        (*UNARY, "--concurrency", "1", "--prompts", "repeated"),
        (("p50 ms", "latency.e2e_ms.p50"), ("p99 ms", "latency.e2e_ms.p99")),
    ),
    LONG,
    Row(
        "streams of 128 tokens, 64 clients, repeated prompts",
        (*STREAM, "--concurrency", "64", "--prompts", "repeated"),
        (
            ("tokens/s", "throughput.output_tokens_per_s"),
            ("chunks/s", "throughput.chunks_per_s"),
            ("ttft p50 ms", "latency.ttft_ms.p50"),
            ("ttft p99 ms", "latency.ttft_ms.p99"),
            ("CPU s per 1,000 tokens", "cpu_s_per_1000_tokens"),
        ),
    ),
    Row(
        "streams of 128 tokens, 64 clients, unique prompts",
        (*STREAM, "--concurrency", "64"),
        (("tokens/s", "throughput.output_tokens_per_s"), ("chunks/s", "throughput.chunks_per_s")),
    ),
    Row(
        "lone stream of 128 tokens",
        (*STREAM, "--concurrency", "1", "--prompts", "repeated"),
        (("whole ms", "latency.e2e_ms.p50"),),
    ),
)
# Here the engine takes as long as a real one's step.
PACED = Row(
    "streams of 128 tokens, 64 clients, a step takes 5.8 ms",
    (*STREAM, "--concurrency", "64", "--prompts", "repeated"),
    (("CPU s per 1,000 tokens", "cpu_s_per_1000_tokens"), ("itl p99 ms", "latency.itl_ms.p99")),
)


class Cluster:
    """`tests/cluster` with what it tells of itself."""

    def __init__(self, step_us: int, model: Path | None) -> None:
        arguments = ["tests/cluster", "--release", "--backend", "sim", "--transport", "tcp"]
        if model:
            arguments += ["--model", str(model)]
        if step_us:
            arguments += ["--sim-step-us", str(step_us)]
        self.process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.pids: dict[str, list[int]] = {}
        self.urls: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found = re.match(r"(\w+)-\d+\s+(http://\S+)\s+process (\d+)", line)
            if found:
                role, url, pid = found.groups()
                self.pids.setdefault(role, []).append(int(pid))
                if role == "frontend":
                    self.urls.append(url)
            if line.startswith("Ctrl-C"):
                break
        else:
            raise SystemExit("the cluster did not start")

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        return {role: sum(cpu_s(pid) for pid in pids) for role, pids in self.pids.items()}

    def memory_mib(self) -> dict[str, float]:
        """The largest resident memory of each role's processes."""
        return {role: max(resident_mib(pid) for pid in pids) for role, pids in self.pids.items()}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def look_up(report: dict[str, Any], path: str) -> float:
    value: Any = report
    for name in path.split("."):
        value = value[name]
    return float(value)


def measure(cluster: Cluster, row: Row, duration: int) -> dict[str, float]:
    """Offers one load and returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        urls = [word for url in cluster.urls for word in ("--url", url)]
        arguments = ["--quiet", "--duration", f"{duration}s", "--warm-up", "2s", "--json", str(report_file), *urls, *row.flags]
        before = cluster.cpu_s()
        subprocess.run([program("vlinders-loadtest"), *arguments], check=True, stdout=subprocess.DEVNULL)
        spent = {role: after - before[role] for role, after in cluster.cpu_s().items()}
        report = json.loads(report_file.read_text())["rounds"][0]
    if report["requests"]["failed"]:
        raise SystemExit(f"{row.name}: {report['failures']}")
    # The warm-up's tokens were paid for too.
    window = report["window_s"]
    tokens = report["throughput"]["output_tokens_per_s"] * (window + 2)
    report["cpu_s_per_1000_tokens"] = sum(spent.values()) / tokens * 1000
    figures = {name: look_up(report, path) for name, path in row.figures}
    figures |= {f"{role} cores": seconds / (window + 2) for role, seconds in spent.items()}
    figures["generator cores"] = report["generator"]["cores"]
    return figures


def program(name: str) -> str:
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return str(Path(json.loads(metadata.stdout)["target_directory"]) / "release" / name)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def run_rows(cluster: Cluster, rows: tuple[Row, ...], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    results = {}
    for row in rows:
        if row is LONG and not arguments.model:
            print(f"{row.name}: left out, needs --model with a longer context", flush=True)
            continue
        results[row.name] = medians([measure(cluster, row, arguments.duration) for _ in range(arguments.repeat)])
        shown = ", ".join(f"{name} {value:,.3f}".rstrip("0").rstrip(".") for name, value in results[row.name].items())
        print(f"{row.name}: {shown}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=int, default=10, help="seconds of each load")
    parser.add_argument("--repeat", type=int, default=3, help="times each load is offered; medians are printed")
    parser.add_argument("--model", type=Path, help="folder of a model whose tokenizer and config to use")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "vlinders-loadtest"], cwd=ROOT, check=True)
    results: dict[str, Any] = {}
    for step_us, rows in ((0, ROWS), (5800, (PACED,))):
        cluster = Cluster(step_us, arguments.model)
        try:
            time.sleep(2)
            idle = cluster.memory_mib()
            results |= run_rows(cluster, rows, arguments)
            results[f"resident MiB, step {step_us} µs"] = {
                f"{role} {when}": value
                for when, memory in (("idle", idle), ("after", cluster.memory_mib()))
                for role, value in memory.items()
            }
            print(results[f"resident MiB, step {step_us} µs"], flush=True)
        finally:
            cluster.stop()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

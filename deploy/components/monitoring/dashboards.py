"""Writes the four dashboards: dashboards.py FOLDER. With --check it fails when a file is not what it would write."""

import json
import sys
from pathlib import Path

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
LEDGER = {"type": "postgres", "uid": "ledger"}


def panel(title, queries, unit="short", kind="timeseries", source=None, help_text=""):
    source = source or PROMETHEUS
    targets = []
    for index, query in enumerate(queries):
        expression, legend = query if isinstance(query, tuple) else (query, "__auto")
        target = {"refId": chr(ord("A") + index), "datasource": source}
        if source is LEDGER:
            target |= {"format": "table", "rawQuery": True, "rawSql": expression}
        else:
            target |= {"expr": expression, "legendFormat": legend}
        targets.append(target)
    return {
        "title": title,
        "description": help_text,
        "type": kind,
        "datasource": source,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
    }


def dashboard(uid, title, panels):
    for index, one in enumerate(panels):
        one["id"] = index + 1
        one["gridPos"] = {"x": 12 * (index % 2), "y": 8 * (index // 2), "w": 12, "h": 8}
    return {
        "uid": uid,
        "title": title,
        "tags": ["vlinders"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": panels,
    }


def quantiles(metric, labels=""):
    return [
        (f"histogram_quantile({q}, sum by (le) (rate(vlinders_{metric}_bucket{labels}[$__rate_interval])))", f"p{q * 100:g}")
        for q in (0.5, 0.95, 0.99)
    ]


SERVICE = dashboard(
    "vlinders-service",
    "Vlinders: service",
    [
        panel("Request rate", [("sum by (route, status) (rate(vlinders_http_requests_total[$__rate_interval]))", "{{route}} {{status}}")], "reqps"),
        panel("Response time", quantiles("http_request_duration_seconds"), "s", help_text="Whole answers: a stream lasts as long as it is."),
        panel("Time to first token", quantiles("ttft_seconds"), "s"),
        panel("Time between tokens", quantiles("itl_seconds"), "s"),
        panel("Token throughput", [("sum by (kind) (rate(vlinders_tokens_total[$__rate_interval]))", "{{kind}}")], "short"),
        panel("Share of 5xx", ["vlinders:http_errors:ratio5m"], "percentunit"),
        panel("Request queue length", ["max(vlinders_queue_length)"], "short"),
        panel("In flight and connections", [("sum(vlinders_requests_in_flight)", "in flight"), ("sum(vlinders_http_connections)", "connections")]),
        panel("Objectives missed", [("vlinders:ttft_misses:ratio1h", "first token after 2.5 s"), ("vlinders:itl_misses:ratio1h", "token after 250 ms")], "percentunit"),
        panel("Streams that moved", [("sum by (reason) (rate(vlinders_failovers_total[$__rate_interval]))", "{{reason}}")]),
        panel("Usage: bills on disk, oldest", [("max(vlinders_usage_spool_oldest_seconds)", "oldest, s"), ("sum(vlinders_usage_spool_events)", "bills")]),
        panel("Usage: from end to ledger", quantiles("usage_lag_seconds"), "s"),
        panel("NATS: waiting by stream", [("max by (stream_name) (jetstream_consumer_num_pending)", "{{stream_name}}")]),
        panel("NATS and Redis reachable", [("min by (service) (vlinders_bus_up)", "bus {{service}}"), ("min(vlinders_limiter_up)", "limiter")]),
    ],
)

POOLS = dashboard(
    "vlinders-pools",
    "Vlinders: pools",
    [
        panel("Workers", [('count by (service) (up{job="vlinders"} == 1)', "{{service}}")]),
        panel("KV blocks in use", [("vlinders:kv_usage:ratio", "{{role}} {{pod}}")], "percentunit"),
        panel("Sequences running", [("vlinders_sequences_running", "{{role}} {{pod}}")]),
        panel("Prompt tokens not yet computed", [("vlinders_queued_prompt_tokens", "{{role}} {{pod}}")]),
        panel("Engine step (p95)", [("histogram_quantile(0.95, sum by (le, role) (rate(vlinders_step_duration_seconds_bucket[$__rate_interval])))", "{{role}}")], "s"),
        panel("Tokens in a step (mean)", [("sum by (role) (rate(vlinders_step_tokens_sum[$__rate_interval])) / sum by (role) (rate(vlinders_step_tokens_count[$__rate_interval]))", "{{role}}")]),
        panel("Sequences in a step (mean)", [("sum by (role) (rate(vlinders_step_rows_sum[$__rate_interval])) / sum by (role) (rate(vlinders_step_rows_count[$__rate_interval]))", "{{role}}")]),
        panel("Put back for want of blocks", [("sum by (role) (rate(vlinders_preemptions_total[$__rate_interval]))", "{{role}}")]),
        panel("Requests ended here", [("sum by (role, reason) (rate(vlinders_requests_finished_total[$__rate_interval]))", "{{role}} {{reason}}")]),
        panel("GPU utilization", [("DCGM_FI_DEV_GPU_UTIL", "{{Hostname}} {{gpu}}")], "percent"),
        panel("GPU memory usage", [("DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE + DCGM_FI_DEV_FB_RESERVED)", "{{Hostname}} {{gpu}}")], "percentunit"),
        panel("GPU temperature", [("DCGM_FI_DEV_GPU_TEMP", "{{Hostname}} {{gpu}}")], "celsius"),
    ],
)

HAND_OFF = dashboard(
    "vlinders-hand-off",
    "Vlinders: hand-off",
    [
        panel("Hand-offs by outcome", [("sum by (outcome) (rate(vlinders_hand_offs_total[$__rate_interval]))", "{{outcome}}")]),
        panel("Hand-off time (mean)", ["vlinders:hand_off_seconds:mean5m"], "s"),
        panel("Pulls by outcome", [("sum by (outcome) (rate(vlinders_kv_pulls_total[$__rate_interval]))", "{{outcome}}")]),
        panel(
            "Pull time (mean)",
            [
                ("sum(rate(vlinders_kv_pull_seconds_total[$__rate_interval])) / sum(rate(vlinders_kv_pulls_total[$__rate_interval]))", "whole"),
                ("sum(rate(vlinders_kv_read_seconds_total[$__rate_interval])) / sum(rate(vlinders_kv_pulls_total[$__rate_interval]))", "bytes on their way"),
            ],
            "s",
        ),
        panel("KV bytes", [("sum by (pod) (rate(vlinders_kv_transfer_bytes_total[$__rate_interval]))", "{{pod}}")], "Bps"),
        panel("Prefix hit rate", ["vlinders:prefix_hits:ratio5m"], "percentunit", help_text="Prompt tokens that needed no computing."),
        panel("Given back by leaving workers", [("sum(rate(vlinders_requests_handed_back_total[$__rate_interval]))", "to frontends"), ("sum(rate(vlinders_requests_given_back_total[$__rate_interval]))", "to the queue")]),
        panel("Step batches sent again", [("sum by (role) (rate(vlinders_resends_total[$__rate_interval]))", "{{role}}")]),
    ],
)

BETWEEN = "finished_ms BETWEEN $__unixEpochFrom() * 1000 AND $__unixEpochTo() * 1000"
TENANTS = dashboard(
    "vlinders-tenants",
    "Vlinders: tenants",
    [
        panel("Requests by tenant", [("sum by (tenant) (rate(vlinders_consumer_requests_total[$__rate_interval]))", "{{tenant}}")], "reqps", help_text="The first 100 tenants; the rest are `other`. The tables below, from the ledger, have all."),
        panel("Token throughput by tenant", [("sum by (tenant) (rate(vlinders_consumer_tokens_total[$__rate_interval]))", "{{tenant}}")]),
        panel(
            "Tokens by tenant",
            [f"SELECT tenant, sum(prompt_tokens) AS prompt, sum(cached_tokens) AS cached, sum(completion_tokens) AS completion, count(*) AS requests FROM usage WHERE {BETWEEN} GROUP BY tenant ORDER BY 2 DESC LIMIT 50"],
            kind="table",
            source=LEDGER,
        ),
        panel(
            "Requests by tenant and end",
            [f"SELECT tenant, finish, count(*) AS requests FROM usage WHERE {BETWEEN} GROUP BY tenant, finish ORDER BY 3 DESC LIMIT 50"],
            kind="table",
            source=LEDGER,
        ),
        panel(
            "Tokens by model",
            [f"SELECT model, sum(prompt_tokens + completion_tokens) AS tokens FROM usage WHERE {BETWEEN} GROUP BY model ORDER BY 2 DESC LIMIT 50"],
            kind="table",
            source=LEDGER,
        ),
        panel(
            "Requests and tokens by class",
            [f"SELECT class, count(*) AS requests, sum(prompt_tokens + completion_tokens) AS tokens FROM usage WHERE {BETWEEN} GROUP BY class ORDER BY 2 DESC"],
            kind="table",
            source=LEDGER,
        ),
        panel(
            "First token by tenant (p95, ms)",
            [f"SELECT tenant, percentile_disc(0.95) WITHIN GROUP (ORDER BY first_token_ms - created_ms) AS p95_ms FROM usage WHERE first_token_ms IS NOT NULL AND {BETWEEN} GROUP BY tenant ORDER BY 2 DESC LIMIT 50"],
            kind="table",
            source=LEDGER,
        ),
    ],
)

ALL = {"service": SERVICE, "pools": POOLS, "hand-off": HAND_OFF, "tenants": TENANTS}


def main() -> int:
    check = "--check" in sys.argv
    folder = Path([argument for argument in sys.argv[1:] if argument != "--check"][0])
    stale = []
    for name, content in ALL.items():
        path = folder / f"{name}.json"
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path))
    for path in stale:
        print(f"{path} is not what dashboards.py writes: run it")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

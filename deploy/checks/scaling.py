"""A day of traffic against the autoscaling rules as they are written: scaling.py [--trace]

Reads targets, limits and behaviours from components/hpa/hpa.yaml and components/keda/scaled-objects.yaml and plays the
autoscaler of Kubernetes (a look every 15 s, tolerance 10 %, stabilization windows, policies per period) over 24 hours of
requests: a daily wave, noise, a long slope, bursts of two and of ten minutes. Workers take minutes to come. The day is the
same at each run. Fails when a pool flaps, when it does not follow, or when it never gets smaller again.

A model of pools, not of machines: a prefill worker computes so many tokens a second, a decode worker has so many places. Its
figures are assumptions, written down below; what it shows is how the rules behave."""

import math
import random
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LOOK_S = 15
TOLERANCE = 0.1
DAY_S = 24 * 3600
# A worker loads its weights so long.
PREFILL_TOKENS_PER_S = 20_000
WORKER_START_S = 240
FRONTEND_START_S = 15
PROMPT_TOKENS = 1_500
ANSWER_S = 20
MAX_NUM_SEQS = 256
KV_PLACES = 230
# A pod that goes so soon after it was asked for was not worth its start, one that is wanted back so soon should have stayed:
# both are flapping.
GONE_AGAIN_S = 900
BACK_AGAIN_S = 300
FLAPS_ALLOWED = 0
MAX_CHANGES = 90


def quantity(text) -> float:
    text = str(text)
    for suffix, factor in (("m", 1e-3), ("k", 1e3), ("M", 1e6)):
        if text.endswith(suffix):
            return float(text[: -len(suffix)]) * factor
    return float(text)


def requests_per_second(second: int, dice: random.Random) -> float:
    hour = second / 3600
    wave = 14 + 12 * math.sin((hour - 9) / 24 * 2 * math.pi)
    slope = 10 * max(0.0, 1 - abs(hour - 15) / 3)
    burst = 0.0
    for start, length, height in ((3.2, 120, 25), (8.0, 600, 30), (13.5, 120, 40), (20.25, 600, 35)):
        if 0 <= second - start * 3600 < length:
            burst += height
    return max(0.5, (wave + slope + burst) * (1 + 0.25 * dice.gauss(0, 1)))


class Pool:
    """Workers that are there, those that come, and the rule that changes their number."""

    def __init__(self, name, low, high, behavior, start_s):
        self.name, self.low, self.high, self.behavior, self.start_s = name, low, high, behavior, start_s
        self.wanted, self.ready, self.coming = low, low, []
        self.history, self.changes = [], []
        self.counts = []

    def tick(self, now):
        arrived = [due for due in self.coming if due <= now]
        self.coming = [due for due in self.coming if due > now]
        self.ready += len(arrived)

    def look(self, now, ratios):
        """`ratios` are value / target of each metric, relative to the ready workers."""
        proposals = [self.wanted if abs(r - 1) <= TOLERANCE else math.ceil(r * max(self.ready, 1)) for r in ratios]
        proposal = min(self.high, max(self.low, max(proposals)))
        self.history.append((now, proposal))
        up = self.behavior["scaleUp"]
        down = self.behavior["scaleDown"]
        longest = max(up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"])
        self.history = [(t, p) for t, p in self.history if now - t <= longest]
        # Up: the least that was asked for in the window; down: the most.
        lowest = min(p for t, p in self.history if now - t <= up["stabilizationWindowSeconds"])
        highest = max(p for t, p in self.history if now - t <= down["stabilizationWindowSeconds"])
        target = self.wanted
        if lowest > self.wanted:
            target = min(lowest, self.limit(now, up, 1))
        elif highest < self.wanted:
            target = max(highest, self.limit(now, down, -1))
        if target != self.wanted:
            self.apply(now, target)

    def limit(self, now, rule, sign):
        """How far the policies let the count go at this moment."""
        allowed = []
        for policy in rule["policies"]:
            recent = sum(new - old for t, old, new in self.changes if now - t < policy["periodSeconds"] and (new - old) * sign > 0)
            before = self.wanted - recent
            step = before * policy["value"] / 100 if policy["type"] == "Percent" else policy["value"]
            bound = math.ceil(before + step) if sign > 0 else math.floor(before - step)
            allowed.append(bound)
        largest = rule["selectPolicy"] == "Max"
        if sign > 0:
            return max(allowed) if largest else min(allowed)
        return min(allowed) if largest else max(allowed)

    def apply(self, now, target):
        self.changes.append((now, self.wanted, target))
        if target > self.wanted:
            self.coming += [now + self.start_s] * (target - self.wanted)
        else:
            gone = self.wanted - target
            # Those that are not there yet go first.
            for _ in range(min(gone, len(self.coming))):
                self.coming.pop()
                gone -= 1
            self.ready -= gone
        self.wanted = target

    def flaps(self):
        found = []
        for first, second in zip(self.changes, self.changes[1:]):
            apart, grew, shrank = second[0] - first[0], first[2] > first[1], second[2] < second[1]
            if grew and shrank and apart < GONE_AGAIN_S or not grew and not shrank and apart < BACK_AGAIN_S:
                found.append((first, second))
        return found


def rules(kind):
    """name -> (low, high, behaviour, targets)"""
    found = {}
    if kind == "hpa":
        for one in yaml.safe_load_all((ROOT / "components/hpa/hpa.yaml").read_text()):
            spec = one["spec"]
            targets = {}
            for metric in spec["metrics"]:
                body = metric[metric["type"].lower()]
                target = body["target"]
                name = body["metric"]["name"] if "metric" in body else body["name"]
                targets[name] = quantity(target.get("averageValue") or target.get("value") or target.get("averageUtilization"))
            found[one["metadata"]["name"]] = (spec["minReplicas"], spec["maxReplicas"], spec["behavior"], targets)
    else:
        for one in yaml.safe_load_all((ROOT / "components/keda/scaled-objects.yaml").read_text()):
            spec = one["spec"]
            targets = {}
            for trigger in spec["triggers"]:
                meta = trigger["metadata"]
                query = meta.get("query", "queue")
                name = next((n for n in ("requests_in_flight", "queued_prompt_tokens", "kv_blocks", "sequences_running") if n in query), "queue")
                name = {"requests_in_flight": "vlinders_requests_in_flight", "queued_prompt_tokens": "vlinders_queued_prompt_tokens",
                        "kv_blocks": "kv_usage_ratio", "sequences_running": "vlinders_sequences_running"}.get(name, name)
                targets[name] = quantity(meta.get("threshold") or meta["lagThreshold"])
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            found[one["metadata"]["name"]] = (spec["minReplicaCount"], spec["maxReplicaCount"], behavior, targets)
    return found


def day(kind, trace=False):
    dice = random.Random(7)
    found = rules(kind)
    pools = {
        name: Pool(name, *found[name][:3], FRONTEND_START_S if name == "frontend" else WORKER_START_S) for name in found
    }
    targets = {name: found[name][3] for name in found}
    frontend, prefill, decode = pools["frontend"], pools["prefill"], pools["decode"]
    waiting_tokens, running, recent = 0.0, 0.0, []
    waits, late_looks, looks = [], 0, 0
    for now in range(0, DAY_S):
        for pool in pools.values():
            pool.tick(now)
        arrivals = requests_per_second(now, dice)
        waiting_tokens += arrivals * PROMPT_TOKENS
        room = max(0.0, decode.ready * MAX_NUM_SEQS - running)
        done = min(waiting_tokens, prefill.ready * PREFILL_TOKENS_PER_S, room * PROMPT_TOKENS)
        waiting_tokens -= done
        running += done / PROMPT_TOKENS - running / ANSWER_S
        # Metrics of a pod are means over a minute.
        recent.append((waiting_tokens, running))
        recent = recent[-60:]
        if now % LOOK_S:
            continue
        looks += 1
        mean_waiting = sum(w for w, _ in recent) / len(recent)
        mean_running = sum(r for _, r in recent) / len(recent)
        ttft = 0.1 + waiting_tokens / max(prefill.ready * PREFILL_TOKENS_PER_S, 1)
        waits.append(ttft)
        late_looks += ttft > 2.5
        per = {
            "vlinders_requests_in_flight": (mean_running + mean_waiting / PROMPT_TOKENS) / frontend.ready,
            # In a batch of work some tokens are always on their way: a second's worth at full load.
            "vlinders_queued_prompt_tokens": (mean_waiting + arrivals * PROMPT_TOKENS * 0.8) / prefill.ready,
            "queue": (mean_waiting / PROMPT_TOKENS + arrivals * 0.8) / prefill.ready,
            "ttft_p95_seconds": ttft,
            "kv_usage_ratio": mean_running / (decode.ready * KV_PLACES),
            "vlinders_sequences_running": mean_running / decode.ready,
            "itl_p95_seconds": 0.02 + 0.1 * min(1.0, running / (decode.ready * MAX_NUM_SEQS)),
            # A frontend's processor: 1 % for each five requests in flight.
            "cpu": (mean_running / frontend.ready) / 5,
        }
        for name, pool in pools.items():
            pool.look(now, [per[metric] / target for metric, target in targets[name].items()])
            pool.counts.append(pool.wanted)
        if trace and now % 900 == 0:
            print(f"{now / 3600:5.2f} h  {arrivals:5.1f} req/s  wait {ttft:6.2f} s  " + "  ".join(f"{n} {p.wanted}" for n, p in pools.items()))
    return pools, waits, late_looks, looks


def main() -> int:
    faults = []
    for kind in ("hpa", "keda"):
        pools, waits, late, looks = day(kind, "--trace" in sys.argv)
        waits.sort()
        print(f"{kind}: first token p50 {waits[len(waits) // 2]:.2f} s, p99 {waits[len(waits) * 99 // 100]:.1f} s, late in {100 * late / looks:.1f} % of looks")
        for name, pool in pools.items():
            flaps = pool.flaps()
            print(f"  {name:9} {min(pool.counts)} to {max(pool.counts)} pods, {len(pool.changes)} changes, {len(flaps)} flaps")
            if len(flaps) > FLAPS_ALLOWED:
                faults.append(f"{kind}: {name} flaps: {flaps[:3]}")
            if len(pool.changes) > MAX_CHANGES:
                faults.append(f"{kind}: {name} changes {len(pool.changes)} times a day")
            if pool.counts[-1] > max(pool.counts) * 0.7 and max(pool.counts) > pool.low:
                faults.append(f"{kind}: {name} does not get smaller at night")
        for name in ("prefill", "decode"):
            if max(pools[name].counts) == pools[name].low:
                faults.append(f"{kind}: {name} never grows")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

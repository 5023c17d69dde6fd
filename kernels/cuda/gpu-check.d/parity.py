"""The built-in model answers on the GPU what it answers on the CPU: parity.py PROGRAM.

Greedy tokens of several prompts. The two add up in different orders, so a near tie may fall differently: the answers are compared from
their beginning, and what is printed is how far they agree.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request

PROMPTS = ["The tulip", "Once upon a time", "A windmill turns because", "In Holland,", "What is a butterfly?", "def main():"]
TOKENS = 64


def answers(program: str, device: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "up", "--device", device, "--listen", "127.0.0.1:0", "--data-dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            place = None
            for line in server.stdout:
                sys.stdout.write(line)
                if "is listening on " in line:
                    place = line.split("is listening on ", 1)[1].split()[0]
                    break
            if place is None:
                raise SystemExit(f"--device {device} did not start")
            return [ask(place, prompt) for prompt in PROMPTS]
        finally:
            server.terminate()
            server.wait(timeout=30)


def ask(place: str, prompt: str) -> str:
    body = {"model": "vlinders-demo", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    request = urllib.request.Request(f"{place}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["choices"][0]["text"]


def main() -> None:
    found, expected = (answers(sys.argv[1], device) for device in ["cuda", "cpu"])
    equal = sum(left == right for left, right in zip(found, expected, strict=True))
    for prompt, left, right in zip(PROMPTS, found, expected, strict=True):
        if left != right:
            same = next((at for at, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
            print(f"{prompt!r}: equal for {same} of {len(right)} characters")
    print(f"{equal} of {len(PROMPTS)} answers of {TOKENS} tokens are equal")
    if equal < len(PROMPTS) / 2:
        raise SystemExit(1)


main()

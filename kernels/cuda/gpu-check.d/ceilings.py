"""What this GPU can do at best: memory by a large copy, arithmetic by a large bf16 product on random numbers.

Writes gigabytes and gigaflops per second to the file that is named.
"""

import sys

import torch


def median_ms(work, times: int = 15) -> float:
    for _ in range(3):
        work()
    found = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return sorted(found)[len(found) // 2]


source = torch.randn(1 << 29, device="cuda")
target = torch.empty_like(source)
copied = 2 * source.numel() * 4 / median_ms(lambda: target.copy_(source)) / 1e6
del source, target
side = 8192
left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
gflops = 2 * side**3 / median_ms(lambda: left @ right) / 1e6
print(f"{torch.cuda.get_device_name()}: memory {copied:.0f} GB/s read and written, bf16 {gflops / 1e3:.0f} TFLOP/s")
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write(f"{copied:.1f} {gflops:.1f}\n")

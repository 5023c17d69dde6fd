"""Every requirement has an answer in REQUIREMENTS-STATUS.md, and every file an answer names exists: status.py"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def numbered(letter: str, last: int, width: int = 0) -> list[str]:
    return [f"{letter}{number:0{width}d}" for number in range(1, last + 1)]


IDS = [
    *numbered("A", 8, 2), *numbered("D", 9, 2), *numbered("C", 13, 2), *numbered("K", 50, 2), *numbered("N", 18, 2),
    *numbered("E", 6, 2), *numbered("M", 9, 2), *numbered("AL", 12), *numbered("P", 6), *numbered("L", 6), "TR",
    *numbered("B", 5), *numbered("PF", 18), *numbered("T", 10), *numbered("S", 9), "CL1", "CL2", "CL3",
]
ANSWERS = {"V": "ran for real", "S": "checked without running", "H": "needs hardware or a cluster", "open": "not there yet"}


def main() -> int:
    page = (ROOT / "deploy/REQUIREMENTS-STATUS.md").read_text()
    rows, faults = {}, []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 4 or not re.fullmatch(r"[A-Z]+\d*", cells[0]):
            continue
        name, item, where, how = cells
        if name in rows:
            faults.append(f"{name} is answered twice")
        rows[name] = how
        if not item or not where or how.split(":")[0].split(" ")[0] not in ANSWERS:
            faults.append(f"{name}: `{how}` is no answer; begin with one of {', '.join(ANSWERS)}")
        for path in re.findall(r"`([a-z./][\w./-]*/[\w./-]*)`", where):
            if not (ROOT / path).exists() and not (ROOT / "deploy" / path).exists():
                faults.append(f"{name}: there is no {path}")
    faults += [f"{name} has no answer" for name in IDS if name not in rows]
    faults += [f"{name} is no requirement" for name in rows if name not in IDS]
    print("\n".join(faults))
    counts = {answer: sum(how.split(":")[0].split(" ")[0] == answer for how in rows.values()) for answer in ANSWERS}
    print(", ".join(f"{count} {answer} ({ANSWERS[answer]})" for answer, count in counts.items()))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

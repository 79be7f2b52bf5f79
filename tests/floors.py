"""Fails when coverage falls below its floors: whole for the decision, 95 % for all the rest."""

import json
import sys
from pathlib import Path

WHOLE = ("model", "rules", "requests", "holds", "steps", "policy", "reconcile")
"""The modules of which every line and branch is tested."""

LINES = 95.0


def main() -> int:
    report = json.loads(Path(sys.argv[1]).read_text())
    totals = report["totals"]
    lines = 100 * totals["covered_lines"] / totals["num_statements"]
    fallen = [] if lines >= LINES else [f"lines of the package: {lines:.1f} %, floor {LINES:.0f} %"]
    for name in WHOLE:
        summary = report["files"][f"daemon/rekeyd/{name}.py"]["summary"]
        if summary["percent_covered"] < 100:
            fallen.append(f"{name}: {summary['percent_covered_display']} %, floor 100 %")
    if fallen:
        print("coverage fell below its floor:", *fallen, sep="\n  ", file=sys.stderr)
        return 1
    print(f"coverage: {lines:.1f} % of all lines; {', '.join(WHOLE)} whole, branches too")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What `ncu --csv --page details` printed, from standard input: one JSON object a kernel, as docs/gpu/page.py reads them.

    python3 ncu.py CASE <ncu.csv
"""

import csv
import json
import sys


def main():
    case = sys.argv[1]
    lines = [line for line in sys.stdin if line.startswith('"')]  # the rest is ncu's and the program's own
    seen = {}
    for row in csv.DictReader(lines):
        name, value = row.get("Metric Name"), row.get("Metric Value")
        if name and value:
            kernel = seen.setdefault(row["ID"], {"what": "ncu", "kernel": row["Kernel Name"], "case": case, "metrics": {}})
            kernel["metrics"][name] = f"{value} {row['Metric Unit']}".strip()
    for kernel in seen.values():
        print(json.dumps(kernel))
    if not seen:
        sys.exit("ncu printed no table")


if __name__ == "__main__":
    main()

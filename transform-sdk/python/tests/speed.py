#!/usr/bin/env python3
"""Records a second of a project's transform in this Python, on one thread: `speed.py PROJECT < VALUES`, a value a line.

To compare with the same function in a transform; all records are one batch, keyed by their numbers.
"""

import importlib
import json
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), sys.argv[1]]

from tidemill import Output, _register, _run, _section  # noqa: E402

ROUNDS = 9
ROUND_SECONDS = 0.5


def main() -> None:
    function = _register.find(importlib.import_module("transform"))
    values = sys.stdin.buffer.read().splitlines()
    written = [
        (0, -1, 1_700_000_000_000 + n, _section.encode_body(b"%d" % n, value, b"\0")) for n, value in enumerate(values)
    ]
    batches = []
    offset = 0
    for section in _section.sections(written):
        batches.append(_section.InputBatch(offset, section.base_timestamp, section.record_count, section.records))
        offset += section.record_count
    output = Output(["out"])
    rates = []
    for _ in range(ROUNDS):
        began, calls = time.thread_time(), 0
        while time.thread_time() - began < ROUND_SECONDS:
            _, failures = _run.run(function, output, 0, batches)
            if failures:
                sys.exit(f"offset {failures[0][0]}: {failures[0][1]}")
            calls += 1
        rates.append(calls * len(values) / (time.thread_time() - began))
    print(json.dumps({"python": sys.version.split()[0], "records_per_s": round(statistics.median(rates))}))


if __name__ == "__main__":
    main()

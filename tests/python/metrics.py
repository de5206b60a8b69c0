"""Reads an exposition from standard input with Prometheus' own parser; prints type, name and labels of every sample."""

import sys

from prometheus_client.parser import text_string_to_metric_families

for family in text_string_to_metric_families(sys.stdin.read()):
    if not family.documentation or family.type == "unknown":
        sys.exit(f"{family.name} has no HELP or no TYPE")
    for sample in family.samples:
        print(family.type, sample.name, ",".join(sorted(sample.labels)))

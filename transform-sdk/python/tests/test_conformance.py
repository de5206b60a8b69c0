"""The cases of ../../conformance, natively: what is not the engine's part must come out the same."""

import base64
import contextlib
import importlib.util
import io
import json
import sys
import unittest
from pathlib import Path
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
SUITE = HERE.parents[1] / "conformance"
sys.path.insert(0, str(HERE.parent))

from tidemill import testing  # noqa: E402

#: What only the engine can show: an end of the process, bounds of a topic, its number of partitions.
ENGINES_PART = {
    "panic-costs-only-the-guilty-record",
    "partition-that-the-output-lacks-costs-only-its-record",
    "record-larger-than-the-topic-takes-costs-only-itself",
    "by-key-is-the-partition-of-kafkas-clients",
}


def transform_of_the_suite() -> Any:
    spec = importlib.util.spec_from_file_location("conformance", SUITE / "python" / "transform.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def to_bytes(given: Any) -> Optional[bytes]:
    if given is None:
        return None
    if isinstance(given, str):
        return given.encode()
    if "base64" in given:
        return base64.b64decode(given["base64"])
    return given["repeat"].encode() * given["times"]


def records(given: list[dict[str, Any]]) -> list[testing.TestRecord]:
    made = []
    for one in given:
        record = testing.TestRecord(
            key=to_bytes(one.get("key")),
            value=to_bytes(one.get("value")),
            headers=[(name, to_bytes(value)) for name, value in one.get("headers", [])],
            timestamp=one.get("timestamp", 1700000000000),
        )
        record.placement = one.get("to", "by-input")
        made += [record] * one.get("times", 1)
    return made


class Conformance(unittest.TestCase):
    maxDiff = 2000

    def test_every_case_comes_out_as_it_says(self) -> None:
        function = transform_of_the_suite()
        cases = sorted((SUITE / "cases").glob("*.json"))
        self.assertGreaterEqual(len(cases), 40)
        for file in cases:
            if file.stem not in ENGINES_PART:
                with self.subTest(file.stem):
                    self.run_case(function, json.loads(file.read_text()))

    def run_case(self, function: Any, case: dict[str, Any]) -> None:
        given = case["records"]
        offsets: list[int] = []
        for one in given:
            first = one.get("offset", offsets[-1] + 1 if offsets else 0)
            offsets += range(first, first + one.get("times", 1))
        outputs = [one if isinstance(one, str) else one["name"] for one in case.get("outputs", ["out"])]
        environment = {
            "CONFORMANCE_FUNCTION": case["function"],
            "TIDEMILL_TRANSFORM": "conformance",
            "TIDEMILL_INPUT_TOPIC": "input",
            **case.get("environment", {}),
        }
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ran = testing.run(
                function,
                records(given),
                outputs=outputs,
                partition=case.get("partition", 0),
                environment=environment,
            )
        expected = case["expect"]
        if case["function"] != "where" or offsets == list(range(len(offsets))):
            for topic in outputs:
                wanted = records(expected.get("outputs", {}).get(topic, []))
                self.compare(ran.topic(topic), wanted)
        failed = [(offsets[place], message) for place, message in ran.failures]
        wanted_failures = expected.get("failures", [])
        self.assertEqual([offset for offset, _ in failed], [one["offset"] for one in wanted_failures])
        for (_, message), one in zip(failed, wanted_failures):
            self.assertIn(one.get("contains", ""), message)
        if "logs" in expected:
            lines = ran.logs + [("info", line) for line in out.getvalue().splitlines()]
            lines += [("warn", line) for line in err.getvalue().splitlines()]
            self.assertEqual(lines, [(one["level"], one["message"]) for one in expected["logs"]])

    def compare(self, came: list[testing.TestRecord], wanted: list[testing.TestRecord]) -> None:
        by_place: dict[Any, tuple[list[testing.TestRecord], list[testing.TestRecord]]] = {}
        for index, all_of_them in enumerate((came, wanted)):
            for record in all_of_them:
                by_place.setdefault(record.placement, ([], []))[index].append(record)
        for place, (came_there, wanted_there) in by_place.items():
            self.assertEqual(len(came_there), len(wanted_there), place)
            for one, other in zip(came_there, wanted_there):
                if one != other:
                    self.fail(f"{place}: {str(one)[:500]} is not {str(other)[:500]}")


if __name__ == "__main__":
    unittest.main()

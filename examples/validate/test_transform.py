import json
import sys
import unittest
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The SDK as `transform build` leaves it here, or the one of the repository.
sys.path[:0] = [str(HERE), str(HERE / ".tidemill/sdk/python"), str(HERE.parents[1] / "transform-sdk/python")]

from tidemill.testing import TestRecord, run  # noqa: E402

from transform import validate  # noqa: E402

GOOD = {
    "id": 1,
    "country": "DE",
    "product": "cup",
    "quantity": 1,
    "cents": 990,
    "ordered_at": "2026-04-02T10:00:00Z",
}


class Validate(unittest.TestCase):
    def reason(self, **changed: Any) -> str:
        ran = run(validate, [TestRecord(json={**GOOD, **changed})], environment={"MAX_QUANTITY": "5"})
        self.assertEqual(ran.records, [])
        return ran.failures[0][1]

    def test_good_order_is_handed_on_as_it_came(self) -> None:
        record = TestRecord(key="1", value=json.dumps(GOOD, indent=2), headers=[("trace", "1")], timestamp=7)
        self.assertEqual(run(validate, [record]).records, [record])

    def test_each_rule_has_its_reason(self) -> None:
        for member, bad in [
            ("id", "1"),
            ("country", "de"),
            ("product", " "),
            ("quantity", True),
            ("cents", 1.5),
            ("ordered_at", "yesterday"),
        ]:
            self.assertIn(f"{member} must be", self.reason(**{member: bad}))
        self.assertIn("at most 5, not 6", self.reason(quantity=6))

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        self.assertIn("Invalid: id must be a positive whole number; cents must", self.reason(id=0, cents=-1))

    def test_bad_order_costs_its_neighbours_nothing(self) -> None:
        ran = run(validate, [TestRecord(json=GOOD), TestRecord(value="no order"), TestRecord(json=GOOD)])
        self.assertEqual([len(ran.records), [offset for offset, _ in ran.failures]], [2, [1]])


if __name__ == "__main__":
    unittest.main()

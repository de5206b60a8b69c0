import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / ".tidemill/sdk/python")]

from tidemill.testing import TestRecord, run  # noqa: E402

from transform import mask_email  # noqa: E402


class MaskEmail(unittest.TestCase):
    def masked(self, value: str) -> str:
        ran = run(mask_email, [TestRecord(value=value)])
        self.assertEqual(ran.failures, [])
        return ran.records[0].value.decode()

    def test_email_is_masked_and_the_rest_kept(self) -> None:
        record = TestRecord(
            key="17",
            value='{"id":17,"email":"ada@example.com","country":"GB"}',
            headers=[("trace", "1")],
            timestamp=1700000000000,
        )
        expected = TestRecord(
            key="17",
            value='{"id":17,"email":"***@example.com","country":"GB"}',
            headers=[("trace", "1")],
            timestamp=1700000000000,
        )
        self.assertEqual(run(mask_email, [record]).records, [expected])

    def test_only_the_member_of_the_outermost_object_is_masked(self) -> None:
        nested = '{"user":{"email":"a@b.c"},"list":["email",{"email":"d@e.f"}],"text":"email"}'
        self.assertEqual(self.masked(nested), nested)

    def test_whatever_is_before_the_last_at_is_masked(self) -> None:
        self.assertEqual(self.masked('{"email":"\\"a\\\\@x\\"@b.c"}'), '{"email":"***@b.c"}')
        self.assertEqual(self.masked('{"email":"nobody"}'), '{"email":"***"}')
        self.assertEqual(self.masked('{"email":null}'), '{"email":null}')
        self.assertEqual(self.masked('{"email":"ada@b.c","email":null}'), '{"email":null}')

    def test_record_without_value_is_handed_on(self) -> None:
        tombstone = TestRecord(key="k")
        self.assertEqual(run(mask_email, [tombstone]).records, [tombstone])

    def test_value_that_is_not_json_is_refused_with_the_place(self) -> None:
        ran = run(mask_email, [TestRecord(value='{"email": }')])
        self.assertEqual(ran.records, [])
        offset, message = ran.failures[0]
        self.assertEqual(offset, 0)
        self.assertIn("not JSON", message)
        self.assertIn("char 10", message)
        self.assertIn("(transform.py:", message)

    def test_what_may_hold_an_email_that_is_not_masked_is_refused_without_telling_it(self) -> None:
        values = ('{"email":["ada@b"]}', '{"email":{"at":"ada@b"}}', '{"email":5}', '[{"email":"ada@b"}]', '"ada@b"')
        ran = run(mask_email, [TestRecord(value=value) for value in values])
        self.assertEqual((ran.records, len(ran.failures)), ([], len(values)))
        self.assertFalse(any("ada" in message for _, message in ran.failures))


if __name__ == "__main__":
    unittest.main()

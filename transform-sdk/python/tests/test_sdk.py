"""What the SDK promises, natively."""

import logging
import random
import sys
import unittest
from pathlib import Path
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tidemill import Output, Record, UnknownOutput, log, transform  # noqa: E402
from tidemill import _register, _section  # noqa: E402
from tidemill.testing import TestRecord, run  # noqa: E402


def run_one(function: Callable[[Record, Output], Any], **parts: Any) -> Any:
    return run(function, [TestRecord(**parts)], outputs=["out", "second"])


class Failures(unittest.TestCase):
    def test_what_a_failed_record_wrote_is_taken_back_and_its_siblings_stay(self) -> None:
        def refuse(record: Record, output: Output) -> None:
            output.forward(record)
            output.to("second").forward(record)
            if record.value == b"bad":
                raise ValueError("no")

        ran = run(refuse, [TestRecord(value=v) for v in ("a", "bad", "b")], outputs=["out", "second"])
        self.assertEqual([r.value for r in ran.records], [b"a", b"b"])
        self.assertEqual([r.value for r in ran.topic("second")], [b"a", b"b"])
        self.assertEqual([offset for offset, _ in ran.failures], [1])

    def test_message_has_type_text_and_line(self) -> None:
        def broken(record: Record, output: Output) -> None:
            {}["id"]

        ((_, message),) = run_one(broken).failures
        line = broken.__code__.co_firstlineno + 1
        self.assertEqual(message, f"KeyError: 'id' (test_sdk.py:{line})")

    def test_leaving_the_interpreter_fails_one_record_only(self) -> None:
        for leave in (SystemExit, KeyboardInterrupt, GeneratorExit):

            def leaving(record: Record, output: Output) -> None:
                if record.offset == 0:
                    raise leave(3)
                output.forward(record)

            ran = run(leaving, [TestRecord(), TestRecord()])
            self.assertEqual(len(ran.records), 1)
            self.assertIn(leave.__name__, ran.failures[0][1])

    def test_memory_that_ran_out_ends_the_call(self) -> None:
        def greedy(record: Record, output: Output) -> None:
            raise MemoryError

        with self.assertRaises(MemoryError):
            run_one(greedy)

    def test_long_message_is_cut_at_a_character_and_keeps_its_place(self) -> None:
        def talk(record: Record, output: Output) -> None:
            raise ValueError("ä" * 5000)

        ((_, message),) = run_one(talk).failures
        self.assertRegex(message, r"^ValueError: ä+\.\.\. \(test_sdk.py:\d+\)$")
        self.assertLessEqual(len(message.encode()), 1024 + len("..."))

    def test_message_that_utf8_cannot_write_is_mended(self) -> None:
        def half(record: Record, output: Output) -> None:
            raise ValueError("\ud800")

        ((_, message),) = run_one(half).failures
        self.assertTrue(message.startswith("ValueError: ? ("))

    def test_error_without_a_text_of_its_own_is_named(self) -> None:
        class Silent(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        def silent(record: Record, output: Output) -> None:
            raise Silent

        self.assertTrue(run_one(silent).failures[0][1].startswith("Silent ("))

    def test_returned_record_is_an_error_for_it_would_be_lost(self) -> None:
        ran = run_one(lambda record, output: record.edit(value="x"))
        self.assertIn("output.write", ran.failures[0][1])

    def test_unknown_output_names_the_known(self) -> None:
        def lost(record: Record, output: Output) -> None:
            try:
                output.to("nowhere")
            except UnknownOutput as error:
                assert "out, second" in str(error)
                raise

        self.assertIn("out, second", run_one(lost).failures[0][1])


class Parts(unittest.TestCase):
    def test_parts_of_the_wrong_kind_fail_the_record(self) -> None:
        wrong: list[Callable[[Record], Any]] = [
            lambda record: record.edit(value=5),
            lambda record: record.edit(value={"a": 1}),
            lambda record: record.edit(key=["a"]),
            lambda record: record.edit(headers={"a": b"b"}),
            lambda record: record.edit(headers=[(b"a", b"b")]),
            lambda record: record.edit(headers=[("\ud800", b"b")]),
            lambda record: record.edit(headers=[("a", 1)]),
            lambda record: record.edit(timestamp=1.5),
            lambda record: record.edit(timestamp=True),
            lambda record: record.edit(timestamp=1 << 63),
            lambda record: record.edit(partition=-1),
            lambda record: record.edit(partition=1 << 32),
            lambda record: record.edit(partition=1, by_key=True),
            lambda record: record.edit(value="\ud800"),
            lambda record: record.edit(value="a", json=1),
            lambda record: record.edit(json={"a": float("nan")}),
            lambda record: record.edit(json={"a": b"bytes"}),
            lambda record: "text",
        ]
        for number, make in enumerate(wrong):
            with self.subTest(number):
                ran = run_one(lambda record, output: output.write(make(record)))
                self.assertEqual((ran.records, len(ran.failures)), ([], 1))

    def test_bytes_that_change_later_are_written_as_they_were(self) -> None:
        def reuse(record: Record, output: Output) -> None:
            buffer = bytearray(b"one")
            output.write(record.edit(value=buffer))
            buffer[:] = b"two"
            output.write(record.edit(value=memoryview(buffer)))

        self.assertEqual([r.value for r in run_one(reuse).records], [b"one", b"two"])

    def test_absent_and_empty_differ(self) -> None:
        ran = run(
            lambda record, output: output.write(record.edit()),
            [TestRecord(), TestRecord(key="", value=""), TestRecord(headers=[("", None), ("", "")])],
        )
        self.assertEqual([(r.key, r.value) for r in ran.records], [(None, None), (b"", b""), (None, None)])
        self.assertEqual(ran.records[2].headers, [("", None), ("", b"")])

    def test_name_of_a_header_that_is_no_utf8_keeps_its_bytes(self) -> None:
        headers = _section.encode_headers([(b"\xff\xfe", b"1")])
        body = _section.encode_body(b"k", b"v", headers)
        (section,) = _section.sections([(0, -1, 5, body)])
        batch = _section.InputBatch(0, section.base_timestamp, 1, section.records)
        (record,) = list(_section.read(batch, 0))
        output = Output(["out"])
        output.write(record.edit().header("more", None))
        written = output._written[0][3]
        self.assertIn(b"\x04\xff\xfe\x021", written)

    def test_json_is_strict_and_compact(self) -> None:
        def copy(record: Record, output: Output) -> None:
            output.write(record.edit(json=record.json()))

        ran = run_one(copy, value=' { "a" : [1, 2.5, "ä\\ud83d\\ude00", null] } ')
        self.assertEqual(ran.records[0].value, '{"a":[1,2.5,"ä😀",null]}'.encode())
        self.assertEqual(run_one(copy, value='{"a":"\\ud800"}').records[0].value, b'{"a":"\\ud800"}')
        for bad in ("", "{", '{"a":1} x', "NaN", '{"a":Infinity}', b"\xff", None):
            with self.subTest(bad):
                ran = run_one(copy, value=bad)
                self.assertEqual((ran.records, len(ran.failures)), ([], 1))


class Sections(unittest.TestCase):
    def test_random_records_come_back_as_they_were(self) -> None:
        chance = random.Random(7)
        sizes = [0, 1, 63, 64, 127, 128, 8191, 8192, 20000, 70000]

        def bytes_or_none() -> Any:
            return None if chance.random() < 0.2 else chance.randbytes(chance.choice(sizes))

        for _ in range(20):
            records = [
                TestRecord(
                    key=bytes_or_none(),
                    value=bytes_or_none(),
                    headers=[(chance.choice("abä"), bytes_or_none()) for _ in range(chance.choice([0, 0, 1, 70]))],
                    timestamp=chance.choice(
                        [0, -1, 1 << 62, -(1 << 62), (1 << 63) - 1, -(1 << 63), chance.getrandbits(40)]
                    ),
                )
                for _ in range(chance.randrange(60))
            ]
            forwarded = run(lambda record, output: output.forward(record), records)
            self.assertEqual((forwarded.records, forwarded.failures), (records, []))
            edited = run(lambda record, output: output.write(record.edit(headers=record.headers)), records)
            self.assertEqual(edited.records, records)

    def test_section_ends_before_it_is_too_large_for_a_batch(self) -> None:
        body = _section.encode_body(None, b"x" * 100_000, b"\0")
        made = _section.sections([(0, -1, 0, body)] * 50)
        self.assertEqual(sum(section.record_count for section in made), 50)
        self.assertTrue(all(len(section.records) <= _section.SECTION_BYTES_MAX for section in made))

    def test_malformed_sections_are_refused(self) -> None:
        body = _section.encode_body(b"key", b"value" * 40, _section.encode_headers([(b"h", b"1")]))
        (section,) = _section.sections([(0, -1, 0, body)] * 3)
        good = section.records
        chance = random.Random(3)
        for count, records in [
            (3, good[:-1]),
            (2, good),
            (4, good),
            (3, good + b"\0"),
            (1, b""),
            (1, b"\xff" * 30),
            (1, b"\x02\0"),
        ]:
            with self.assertRaises(_section.Malformed):
                list(_section.read(_section.InputBatch(0, 0, count, records), 0))
        for _ in range(3000):
            broken = bytearray(good)
            broken[chance.randrange(len(good))] = chance.randrange(256)
            try:
                for record in _section.read(_section.InputBatch(0, 0, 3, bytes(broken)), 0):
                    self.assertLessEqual(len(record.value or b""), len(good))
            except _section.Malformed:
                pass


class Logs(unittest.TestCase):
    def test_lines_of_both_ways_are_collected(self) -> None:
        def talk(record: Record, output: Output) -> None:
            log.debug("d %s", 1)
            log.error("100%")
            logging.getLogger("lib").info("from %s", "lib")
            logging.warning("two\nlines")

        self.assertEqual(
            run_one(talk).logs,
            [
                ("debug", "d 1"),
                ("error", "100%"),
                ("info", "from lib"),
                ("warn", "two"),
                ("warn", "lines"),
            ],
        )

    def test_stream_hands_on_lines_and_what_is_left(self) -> None:
        lines: list[tuple[str, str]] = []
        before, log._sink = log._sink, lambda level, message: lines.append((level, message))
        try:
            stream = log.LineWriter("info")
            print("a\nb", end="", file=stream)
            print("c", file=stream)
            stream.write("rest")
            stream.finish()
            stream.finish()
        finally:
            log._sink = before
        self.assertEqual(lines, [("info", "a"), ("info", "bc"), ("info", "rest")])


class Registering(unittest.TestCase):
    def test_what_cannot_be_a_transform_is_refused_with_a_reason(self) -> None:
        async def asynchronous(record: Record, output: Output) -> None: ...

        def yielding(record: Record, output: Output) -> Any:
            yield

        for function, word in [
            (asynchronous, "async"),
            (yielding, "yields"),
            (lambda record: None, "two arguments"),
            (5, "function"),
        ]:
            with self.assertRaisesRegex(_register.NotATransform, word):
                transform(function)  # type: ignore[arg-type]

    def test_module_has_exactly_one(self) -> None:
        module = type(sys)("mine")
        with self.assertRaisesRegex(_register.NotATransform, "no transform"):
            _register.find(module)
        module.one = transform(lambda record, output: None)  # type: ignore[attr-defined]
        module.alias = module.one  # type: ignore[attr-defined]
        self.assertIs(_register.find(module), module.one)  # type: ignore[attr-defined]
        module.two = transform(lambda record, output: None)  # type: ignore[attr-defined]
        with self.assertRaisesRegex(_register.NotATransform, "more than one"):
            _register.find(module)


class Contract(unittest.TestCase):
    def test_copy_of_the_contract_is_the_contract(self) -> None:
        for name in ("log.wit", "processor.wit", "types.wit"):
            ours = (HERE.parent / "tidemill/wit" / name).read_text()
            self.assertEqual(ours, (HERE.parents[2] / "wit" / name).read_text(), name)


if __name__ == "__main__":
    unittest.main()

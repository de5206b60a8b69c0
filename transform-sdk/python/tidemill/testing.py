"""Runs a transform in an ordinary unit test, without a broker and without WebAssembly.

from tidemill.testing import TestRecord, run

ran = run(shout, [TestRecord(key="k", value="hello")])
assert ran.records == [TestRecord(key="k", value="HELLO")]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence, Union
from contextlib import contextmanager
import logging
import os

from . import _json, log
from ._output import Output
from ._record import BY_INPUT, BY_KEY, Bytes, header_bytes, to_bytes
from ._register import TransformFn
from ._run import run as run_call
from ._section import InputBatch, OutputSection, encode_body, encode_headers, read, sections

#: The default output's name in :func:`run`.
DEFAULT_OUTPUT = "output"


class TestRecord:
    """A record made by hand, or one that was written. Two are equal if key, value, headers and timestamp are.

    ``placement`` says where a record that was written goes: ``"by-input"``, ``"by-key"`` or a partition's number.
    """

    __test__ = False  # No test case for pytest.
    __slots__ = ("key", "value", "headers", "timestamp", "placement")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        *,
        key: Optional[Bytes] = None,
        value: Optional[Bytes] = None,
        json: Any = None,
        headers: Iterable[tuple[str, Optional[Bytes]]] = (),
        timestamp: int = 0,
    ) -> None:
        self.key = to_bytes(key, "key")
        self.value = to_bytes(value, "value") if json is None else _json.dump(json)
        self.headers = [(name, to_bytes(value, "header's value")) for name, value in headers]
        self.timestamp = timestamp
        self.placement: Union[str, int] = "by-input"

    def json(self) -> Any:
        """The value, parsed as JSON."""
        return _json.parse(self.value or b"")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TestRecord):
            return NotImplemented
        return self._parts() == other._parts()

    def _parts(self) -> tuple[object, ...]:
        return (self.key, self.value, self.headers, self.timestamp)

    def __repr__(self) -> str:
        return (
            f"TestRecord(key={self.key!r}, value={self.value!r}, headers={self.headers!r}, timestamp={self.timestamp})"
        )


@dataclass
class Ran:
    """What a transform did."""

    #: What was written, by topic.
    outputs: dict[str, list[TestRecord]]
    #: The records that failed: offset (the place in the input, from 0) and why.
    failures: list[tuple[int, str]]
    #: The lines that were logged: level (``debug``, ``info``, ``warn``, ``error``) and text.
    logs: list[tuple[str, str]] = field(default_factory=list)

    @property
    def records(self) -> list[TestRecord]:
        """What was written to the first output."""
        return next(iter(self.outputs.values()))

    def topic(self, name: str) -> list[TestRecord]:
        """What was written to the output ``name``."""
        return self.outputs[name]


def run(
    function: TransformFn,
    records: Iterable[TestRecord],
    *,
    outputs: Sequence[str] = (DEFAULT_OUTPUT,),
    partition: int = 0,
    environment: Mapping[str, str] = {},
) -> Ran:
    """Runs ``function`` on ``records``, which come from ``partition``, with these outputs, the first being the default, and with
    ``environment`` added to the process's. ``tidemill.log`` and ``logging`` are collected; standard output is not."""
    ran = Ran({name: [] for name in outputs}, [])
    with _collected(ran.logs), _environment({"TIDEMILL_OUTPUTS": ",".join(outputs), **environment}):
        written, ran.failures = run_call(function, Output(outputs), partition, _batches(records))
    for section in written:
        ran.outputs[outputs[section.output]] += _shown(section)
    return ran


def _batches(records: Iterable[TestRecord]) -> list[InputBatch]:
    written = [
        (0, 0, one.timestamp, encode_body(one.key, one.value, encode_headers(header_bytes(one.headers))))
        for one in records
    ]
    batches: list[InputBatch] = []
    offset = 0
    for section in sections(written):
        batches.append(InputBatch(offset, section.base_timestamp, section.record_count, section.records))
        offset += section.record_count
    return batches


def _shown(section: OutputSection) -> Iterator[TestRecord]:
    names = {BY_INPUT: "by-input", BY_KEY: "by-key"}
    batch = InputBatch(0, section.base_timestamp, section.record_count, section.records)
    for record in read(batch, 0):
        shown = TestRecord(key=record.key, value=record.value, headers=record.headers, timestamp=record.timestamp)
        shown.placement = names.get(section.placement, section.placement)
        yield shown


@contextmanager
def _collected(lines: list[tuple[str, str]]) -> Iterator[None]:
    root = logging.getLogger()
    handler, level, before = log.Handler(), root.level, log._sink
    log._sink = lambda level, message: lines.append((level, message))
    root.addHandler(handler)
    if level in (logging.NOTSET, logging.WARNING):
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        log._sink = before
        root.removeHandler(handler)
        root.setLevel(level)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

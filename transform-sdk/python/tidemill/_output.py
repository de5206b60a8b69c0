"""Where a function writes."""

from __future__ import annotations

from typing import Sequence, Union

from ._record import BY_INPUT, BY_KEY, NewRecord, Record, check_timestamp, header_bytes, to_bytes
from ._section import encode_body, encode_headers


class UnknownOutput(LookupError):
    """A topic that the transform was not deployed with."""


class OutputTopic:
    """One of the outputs, from :meth:`Output.to`."""

    __slots__ = ("_owner", "_index", "_name")

    def __init__(self, owner: Output, index: int, name: str) -> None:
        self._owner = owner
        self._index = index
        self._name = name

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._name

    def write(self, record: Union[NewRecord, Record]) -> None:
        """Writes ``record`` to this output.

        Raises TypeError or ValueError where a part of it cannot be written.
        """
        if type(record) is not NewRecord:
            return self.forward(record)  # type: ignore[arg-type]
        owner = self._owner
        key = record.key
        value = record.value
        timestamp = record.timestamp
        if key is not None and type(key) is not bytes:
            key = to_bytes(key, "key")
        if value is not None and type(value) is not bytes:
            value = to_bytes(value, "value")
        if timestamp is None:
            timestamp = owner._timestamp
        elif timestamp is not owner._timestamp:
            check_timestamp(timestamp)
        kept = record._kept
        if record._headers is not None or kept is None:
            headers = encode_headers(header_bytes(record.headers))
        elif kept._headers:
            headers = kept._section[kept._headers_start : kept._end]
        else:
            headers = _NO_HEADERS
        placement = record._placement
        if placement is None:
            placement = BY_INPUT if key is record._key_before or key == record._key_before else BY_KEY
        owner._written.append((self._index, placement, timestamp, encode_body(key, value, headers)))

    def forward(self, record: Record) -> None:
        """Hands ``record`` on to this output as it is."""
        if not isinstance(record, Record):
            raise TypeError(
                f"a NewRecord is written, from record.edit(...) or NewRecord(...), not {type(record).__name__}"
            )
        body = record._section[record._start : record._end]
        self._owner._written.append((self._index, BY_INPUT, record.timestamp, body))


_NO_HEADERS = b"\0"


class Output:
    """Where a function writes. :meth:`write` and :meth:`forward` go to the output that was declared first."""

    __slots__ = ("_written", "_timestamp", "_topics", "_by_name", "write", "forward")

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise ValueError("a transform has at least one output")
        self._written: list[tuple[int, int, int, bytes]] = []
        self._timestamp = 0
        self._topics = [OutputTopic(self, index, name) for index, name in enumerate(names)]
        self._by_name = {topic._name: topic for topic in reversed(self._topics)}
        #: Writes a record to the first output; see :meth:`OutputTopic.write`.
        self.write = self._topics[0].write
        #: Hands a record on to the first output as it is; see :meth:`OutputTopic.forward`.
        self.forward = self._topics[0].forward

    @property
    def topics(self) -> list[str]:
        """The names of the outputs, in the order they were declared."""
        return [topic._name for topic in self._topics]

    def to(self, topic: str) -> OutputTopic:
        """The output called ``topic``.

        Raises UnknownOutput where the transform was not deployed with it; the message names those it has.
        """
        found = self._by_name.get(topic)
        if found is None:
            raise UnknownOutput(
                f'"{topic}" is not an output of this transform, which has: {", ".join(self.topics)}; '
                "declare it in transform.toml, or with --output, and deploy again"
            )
        return found

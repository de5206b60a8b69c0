"""Records: what a function is given and what it writes."""

from __future__ import annotations

from typing import Any, Iterable, Optional, Union

from . import _json

# What may be given where bytes are wanted: text is written in UTF-8.
Bytes = Union[bytes, bytearray, memoryview, str]
Headers = Iterable["tuple[str, Optional[Bytes]]"]

_TIMESTAMP_MIN = -(1 << 63)
_TIMESTAMP_MAX = (1 << 63) - 1
_PARTITION_MAX = (1 << 32) - 1


class _Keep:
    """Stands for: as the input has it."""

    def __repr__(self) -> str:
        return "unchanged"


KEEP: Any = _Keep()


class Record:
    """A record of the input. It does not change; :meth:`edit` makes one to be written from it."""

    __slots__ = (
        "key",
        "value",
        "timestamp",
        "offset",
        "partition",
        "_headers",
        "_section",
        "_start",
        "_headers_start",
        "_end",
    )

    #: The key, if it has one.
    key: Optional[bytes]
    #: The value; none is a tombstone (in a compacted topic: delete this key).
    value: Optional[bytes]
    #: Its timestamp, in ms since the Unix epoch.
    timestamp: int
    #: Its offset in its partition of the input topic.
    offset: int
    #: The partition of the input topic that it came from.
    partition: int

    _headers: tuple[tuple[str, Optional[bytes]], ...]
    # Where its key begins, its headers begin and it ends in a batch of the input.
    _section: bytes
    _start: int
    _headers_start: int
    _end: int

    def __init__(self) -> None:
        raise TypeError("records of the input come from the broker; in tests, tidemill.testing.run makes them")

    @property
    def headers(self) -> list[tuple[str, Optional[bytes]]]:
        """The headers, in order: a new list. A key may occur more than once."""
        return list(self._headers)

    def header(self, key: str) -> Optional[bytes]:
        """The value of the first header called ``key``, if there is one and it has a value."""
        for name, value in self._headers:
            if name == key:
                return value
        return None

    def text(self) -> str:
        """The value as text.

        Raises ValueError where there is none, or it is not UTF-8.
        """
        if self.value is None:
            raise ValueError("the record has no value")
        return self.value.decode()

    def json(self) -> Any:
        """The value, parsed as JSON.

        Raises ValueError where there is none, or it is not JSON in UTF-8.
        """
        if self.value is None:
            raise ValueError("the record has no value")
        return _json.parse(self.value)

    def edit(
        self,
        *,
        key: Optional[Bytes] = KEEP,
        value: Optional[Bytes] = KEEP,
        json: Any = KEEP,
        headers: Headers = KEEP,
        timestamp: int = KEEP,
        partition: Optional[int] = None,
        by_key: bool = False,
    ) -> NewRecord:
        """A record like this one, with what is named here changed; ``None`` takes the key or the value away.

        The arguments are those of :class:`NewRecord`.
        """
        new = _new(NewRecord)
        new._key_before = new.key = self.key
        new.value = self.value
        new.timestamp = self.timestamp
        new._kept = self
        new._headers = None
        new._placement = None
        if json is not KEEP:
            new.value = _json.dump(json) if value is KEEP else _value_of(value, json)
        elif value is not KEEP:
            new.value = value if type(value) is bytes else to_bytes(value, "value")
        if key is not KEEP:
            new.key = to_bytes(key, "key")
        if headers is not KEEP:
            new.headers = _header_list(headers)
        if timestamp is not KEEP:
            new.timestamp = timestamp
        if by_key or partition is not None:
            new._place(partition, by_key)
        return new

    def __repr__(self) -> str:
        return (
            f"Record(offset={self.offset}, partition={self.partition}, timestamp={self.timestamp}, "
            f"key={self.key!r}, value={self.value!r}, headers={self.headers!r})"
        )


_new = object.__new__


class NewRecord:
    """A record to be written, made from nothing, or by :meth:`Record.edit` from a record of the input.

    ``key`` and ``value`` are bytes, or text that is written in UTF-8, or ``None`` for absent; ``json`` is a value to be
    written as JSON instead. ``headers`` are pairs of a name and a value. ``timestamp`` is in ms since the Unix epoch; without
    one it is that of the input record. ``partition`` names the partition of the output topic; ``by_key`` asks for the one that
    Kafka's clients choose for the key, which is the default where the key was changed; else it goes to the partition with the
    number of the input's.

    Raises TypeError for what is neither bytes nor text, ValueError for a number out of range.
    """

    __slots__ = ("key", "value", "timestamp", "_headers", "_kept", "_key_before", "_placement")

    #: The key: bytes, text or ``None``.
    key: Optional[Bytes]
    #: The value: bytes, text or ``None``, which is a tombstone.
    value: Optional[Bytes]
    #: The timestamp in ms since the Unix epoch, or ``None`` for that of the input record.
    timestamp: Optional[int]

    # The headers of the input, as long as nobody asked for them.
    _kept: Optional[Record]
    _headers: Optional[list[tuple[str, Optional[Bytes]]]]
    _key_before: Optional[bytes]
    # ``None`` by the key's change, -2 by key, else a partition.
    _placement: Optional[int]

    def __init__(
        self,
        *,
        key: Optional[Bytes] = None,
        value: Optional[Bytes] = KEEP,
        json: Any = KEEP,
        headers: Headers = (),
        timestamp: Optional[int] = None,
        partition: Optional[int] = None,
        by_key: bool = False,
    ) -> None:
        self.key = to_bytes(key, "key")
        self.value = _value_of(value, json)
        self.timestamp = timestamp
        self._headers = _header_list(headers)
        self._kept = None
        self._key_before = None
        self._placement = None
        self._place(partition, by_key)

    @property
    def headers(self) -> list[tuple[str, Optional[Bytes]]]:
        """The headers, in order. The list may be changed."""
        if self._headers is None:
            self._headers = list(self._kept._headers) if self._kept else []
        return self._headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = _header_list(headers)

    def header(self, key: str, value: Optional[Bytes]) -> NewRecord:
        """Adds a header after the others; those of the same name stay. Gives the record."""
        self.headers.append((key, value))
        return self

    def by_key(self) -> NewRecord:
        """Asks for the partition that Kafka's clients choose for the key. Gives the record."""
        self._placement = BY_KEY
        return self

    def partition(self, partition: int) -> NewRecord:
        """Names the partition of the output topic. Gives the record.

        Where the output has no such partition, the record fails.
        """
        self._place(partition, False)
        return self

    def _place(self, partition: Optional[int], by_key: bool) -> None:
        if partition is None:
            if by_key:
                self._placement = BY_KEY
            return
        if by_key:
            raise ValueError("a record goes by its key or to a partition, not both")
        if type(partition) is not int:
            raise TypeError(f"a partition is an int, not {_a(partition)}")
        if not 0 <= partition <= _PARTITION_MAX:
            raise ValueError(f"there is no partition {partition}")
        self._placement = partition

    def __repr__(self) -> str:
        return (
            f"NewRecord(key={self.key!r}, value={self.value!r}, headers={self.headers!r}, timestamp={self.timestamp})"
        )


BY_INPUT = -1
BY_KEY = -2


def to_bytes(given: Optional[Bytes], what: str) -> Optional[bytes]:
    """``given`` as bytes of its own, for the ``what`` of a record.

    Raises TypeError for what is neither bytes nor text.
    """
    if given is None or type(given) is bytes:
        return given
    if isinstance(given, str):
        return given.encode()
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    hint = "; json=... writes it as JSON" if what == "value" else ""
    raise TypeError(f"a {what} is bytes, str or None, not {_a(given)}{hint}")


def header_bytes(headers: Headers) -> Iterable[tuple[bytes, Optional[bytes]]]:
    """``headers`` in bytes.

    Raises TypeError for what cannot be one, UnicodeEncodeError for a name that UTF-8 cannot write.
    """
    for key, value in headers:
        if not isinstance(key, str):
            raise TypeError(f"the name of a header is a str, not {_a(key)}")
        yield key.encode("utf-8", "surrogateescape"), to_bytes(value, "header's value")


def check_timestamp(timestamp: Any) -> int:
    """``timestamp``, if it can be one.

    Raises TypeError where it is no int, ValueError where 64 bits do not hold it.
    """
    if type(timestamp) is not int:
        raise TypeError(f"a timestamp is an int, in ms since 1970, not {_a(timestamp)}")
    if not _TIMESTAMP_MIN <= timestamp <= _TIMESTAMP_MAX:
        raise ValueError(f"the timestamp {timestamp} is out of range")
    return timestamp


def _value_of(value: Optional[Bytes], json: Any) -> Optional[bytes]:
    if json is KEEP:
        return None if value is KEEP else to_bytes(value, "value")
    if value is not KEEP:
        raise ValueError("a record has a value or a json, not both")
    return _json.dump(json)


def _header_list(headers: Headers) -> list[tuple[str, Optional[Bytes]]]:
    if isinstance(headers, dict) or headers is None:
        raise TypeError(f"headers are a list of (name, value), not {_a(headers)}")
    return list(headers)


def _a(thing: object) -> str:
    return type(thing).__name__

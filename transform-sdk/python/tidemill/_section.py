"""Record sections: the records of a batch as they lie in the log (KIP-98), read and written.

A record is its length, attributes, the differences of its timestamp and offset from the batch's base, key, value and headers.
Numbers are varints: 7 bits a byte, zigzag. No length is trusted: a producer wrote it.
"""

from __future__ import annotations

from typing import Iterable, Iterator, NamedTuple, Optional

from ._record import Record

# A section ends when the next record would make it larger than this many bytes, so that it fits a batch of Kafka's default
# max.message.bytes (1,048,588).
SECTION_BYTES_MAX = 900 * 1024
_INT64_MIN = -(1 << 63)
_INT64_MAX = (1 << 63) - 1
_VARINT_BITS_MAX = 64

NULL = b"\x01"


class Malformed(Exception):
    """The input is no record section."""


class InputBatch(NamedTuple):
    """A batch of the input; see ``wit/processor.wit``."""

    base_offset: int
    base_timestamp: int
    record_count: int
    records: bytes


class OutputSection(NamedTuple):
    """A section for an output; see ``wit/processor.wit``."""

    output: int
    placement: int
    base_timestamp: int
    max_timestamp: int
    record_count: int
    records: bytes


# What was written: output, placement, timestamp, and the record from its key on.
Written = "tuple[int, int, int, bytes]"


def _encode(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# Lengths and differences are mostly small: what two bytes hold is looked up.
SMALL_MAX = 8192
SMALL = tuple(_encode(number) for number in range(SMALL_MAX))


# What the two bytes of a number stand for, by the second and the first: two look-ups cost less than nine operations on numbers.
TWO_BYTES = tuple(
    tuple((first & 0x7F | second << 7) >> 1 ^ -(first & 1) for first in range(256)) for second in range(128)
)
ONE_BYTE = TWO_BYTES[0][:128]


def varint(number: int) -> bytes:
    """``number``, of 64 bits, as a varint."""
    return SMALL[number] if 0 <= number < SMALL_MAX else _encode(number)


def take_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at ``at``, and where it ends.

    Raises Malformed where it has more than 64 bits, IndexError where it is cut off.
    """
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> _VARINT_BITS_MAX:
                raise Malformed("a number has more than 64 bits")
            return (number >> 1) ^ -(number & 1), at
        shift += 7
        if shift >= _VARINT_BITS_MAX:
            if shift > _VARINT_BITS_MAX + 6:
                raise Malformed("a number is malformed")


def encode_body(key: Optional[bytes], value: Optional[bytes], headers: bytes) -> bytes:
    """A record from its key on; ``headers`` with their number in front."""
    if key is None:
        key = b""
        key_length = NULL
    else:
        length = len(key)
        key_length = SMALL[length] if length < SMALL_MAX else _encode(length)
    if value is None:
        return b"".join((key_length, key, NULL, headers))
    length = len(value)
    value_length = SMALL[length] if length < SMALL_MAX else _encode(length)
    return b"".join((key_length, key, value_length, value, headers))


def read(batch: InputBatch, partition: int) -> Iterator[Record]:
    """The records of ``batch``, one after the other: those already done with leave the processor's caches to the next.

    Raises Malformed where it is none.
    """
    try:
        yield from _read(batch, partition)
    except IndexError:
        raise Malformed("a record is longer than its batch") from None


def _read(batch: InputBatch, partition: int) -> Iterator[Record]:
    section = batch.records
    base_offset = batch.base_offset
    base_timestamp = batch.base_timestamp
    new = Record.__new__
    one_byte, two_bytes = ONE_BYTE, TWO_BYTES
    at = 0
    # Numbers of one and two bytes are read in place, without a call.
    for _ in range(batch.record_count):
        byte = section[at]
        if byte < 0x80:
            length = one_byte[byte]
            at += 1
        elif (second := section[at + 1]) < 0x80:
            length = two_bytes[second][byte]
            at += 2
        else:
            length, at = take_varint(section, at)
        end = at + length
        # The attributes of a record mean nothing so far.
        at += 1
        byte = section[at]
        if byte < 0x80:
            timestamp = one_byte[byte]
            at += 1
        elif (second := section[at + 1]) < 0x80:
            timestamp = two_bytes[second][byte]
            at += 2
        else:
            timestamp, at = take_varint(section, at)
        byte = section[at]
        if byte < 0x80:
            offset = one_byte[byte]
            at += 1
        elif (second := section[at + 1]) < 0x80:
            offset = two_bytes[second][byte]
            at += 2
        else:
            offset, at = take_varint(section, at)
        record = new(Record)
        record._section = section
        record._start = at
        record._end = end
        byte = section[at]
        if byte < 0x80:
            length = one_byte[byte]
            at += 1
        elif (second := section[at + 1]) < 0x80:
            length = two_bytes[second][byte]
            at += 2
        else:
            length, at = take_varint(section, at)
        if length >= 0:
            record.key = section[at : at + length]
            at += length
        elif length == -1:
            record.key = None
        else:
            raise Malformed("the length of a key is negative")
        byte = section[at]
        if byte < 0x80:
            length = one_byte[byte]
            at += 1
        elif (second := section[at + 1]) < 0x80:
            length = two_bytes[second][byte]
            at += 2
        else:
            length, at = take_varint(section, at)
        if length >= 0:
            record.value = section[at : at + length]
            at += length
        elif length == -1:
            record.value = None
        else:
            raise Malformed("the length of a value is negative")
        record._headers_start = at
        if section[at]:
            record._headers, at = read_headers(section, at)
        else:
            record._headers = ()
            at += 1
        if at != end:
            raise Malformed("a record does not end where its length says")
        timestamp += base_timestamp
        if timestamp > _INT64_MAX or timestamp < _INT64_MIN:
            raise Malformed("a timestamp is out of range")
        record.timestamp = timestamp
        record.offset = base_offset + offset
        record.partition = partition
        yield record
    if at != len(section):
        raise Malformed("the batch does not end with its last record")


def read_headers(data: bytes, at: int) -> tuple[tuple[tuple[str, Optional[bytes]], ...], int]:
    """The headers at ``at``, with their number in front, and where they end. Keys that are no UTF-8 keep their bytes as Python's
    ``surrogateescape`` does."""
    count, at = take_varint(data, at)
    if count < 0:
        raise Malformed("a record has a negative number of headers")
    headers: list[tuple[str, Optional[bytes]]] = []
    for _ in range(count):
        length, at = take_varint(data, at)
        if length < 0 or at + length > len(data):
            raise Malformed("a header's key is malformed")
        key = data[at : at + length].decode("utf-8", "surrogateescape")
        length, at = take_varint(data, at + length)
        if length < -1 or at + length > len(data):
            raise Malformed("a header's value is malformed")
        headers.append((key, None if length < 0 else data[at : at + length]))
        at += max(length, 0)
    return tuple(headers), at


def encode_headers(headers: Iterable[tuple[bytes, Optional[bytes]]]) -> bytes:
    """``headers`` with their number in front."""
    parts: list[bytes] = []
    count = 0
    for key, value in headers:
        count += 1
        parts += (varint(len(key)), key)
        if value is None:
            parts.append(NULL)
        else:
            parts += (varint(len(value)), value)
    return b"".join((varint(count), *parts))


class _Open:
    """A section that grows."""

    __slots__ = ("output", "placement", "parts", "size", "count", "base", "max")

    def __init__(self, output: int, placement: int, timestamp: int) -> None:
        self.output = output
        self.placement = placement
        self.parts: list[bytes] = []
        self.size = 0
        self.count = 0
        self.base = self.max = timestamp

    def put(self, timestamp: int, body: bytes) -> bool:
        """Appends a record; false where it belongs into another section."""
        delta = timestamp - self.base
        count = self.count
        if 0 <= delta < SMALL_MAX and count < SMALL_MAX:
            later, place = SMALL[delta], SMALL[count]
        elif _INT64_MIN <= delta <= _INT64_MAX:
            later, place = varint(delta), varint(count)
        else:
            return False
        length = 1 + len(later) + len(place) + len(body)
        prefix = SMALL[length] if length < SMALL_MAX else _encode(length)
        size = self.size + len(prefix) + length
        if size > SECTION_BYTES_MAX and count:
            return False
        self.size = size
        self.count = count + 1
        self.parts += (prefix, b"\0", later, place, body)
        if timestamp > self.max:
            self.max = timestamp
        return True

    def close(self) -> OutputSection:
        return OutputSection(self.output, self.placement, self.base, self.max, self.count, b"".join(self.parts))


def sections(written: list[tuple[int, int, int, bytes]]) -> list[OutputSection]:
    """The sections that hold ``written``, each with what goes to one output and is placed alike, in order."""
    done: list[OutputSection] = []
    all_open: dict[tuple[int, int], _Open] = {}
    section = None
    for output, placement, timestamp, body in written:
        if section is None or section.output != output or section.placement != placement:
            section = all_open.get((output, placement))
            if section is None:
                section = all_open[output, placement] = _Open(output, placement, timestamp)
        if not section.put(timestamp, body):
            done.append(section.close())
            section = all_open[output, placement] = _Open(output, placement, timestamp)
            section.put(timestamp, body)
    done += (section.close() for section in all_open.values())
    return done

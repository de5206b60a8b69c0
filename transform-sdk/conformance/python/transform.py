"""The functions of the conformance suite; ../README.md says what each does."""

import os
import random
import secrets
import sys
import uuid
from typing import Callable, Dict

from tidemill import NewRecord, Output, Record, log, transform


def forward(record: Record, output: Output) -> None:
    output.forward(record)


def edit(record: Record, output: Output) -> None:
    edited = record.edit(value=b"<" + (record.value or b"") + b">")
    output.write(edited.header("edited", "yes").header("edited", None))


def strip(record: Record, output: Output) -> None:
    output.write(record.edit(key=None, value=None, headers=[]))


def new(record: Record, output: Output) -> None:
    output.write(NewRecord(value=record.value, headers=[("made", "yes")]))


def keep(record: Record, output: Output) -> None:
    if (record.value or b"").startswith(b"keep"):
        output.write(record.edit())


def repeat(record: Record, output: Output) -> None:
    given = text(record)
    if not (given.isascii() and given.isdigit()):
        raise ValueError(f"not a number: {given}")
    for number in range(int(given)):
        output.write(record.edit(value=str(number)))


def large(record: Record, output: Output) -> None:
    count, size = map(int, text(record).split(" "))
    for _ in range(count):
        output.write(record.edit(value=b"x" * size))


def fan_out(record: Record, output: Output) -> None:
    value = record.value or b""
    output.write(record.edit())
    output.to("second").write(record.edit(value=b"2:" + value))
    output.to("third").write(record.edit(value=b"3:" + value))


def route(record: Record, output: Output) -> None:
    to = record.header("to")
    target = output if to is None else output.to(to.decode())
    target.write(record.edit())


def fail(record: Record, output: Output) -> None:
    output.write(record.edit())
    output.to("second").write(record.edit())
    if (record.value or b"").startswith(b"bad"):
        raise ValueError(f"refused: {text(record)}")


def environment(record: Record, output: Output) -> None:
    for name in text(record).split(","):
        value = os.environ.get(name)
        output.write(NewRecord(value=f"{name} is not set" if value is None else f"{name}={value}"))


def log_line(record: Record, output: Output) -> None:
    where, _, line = text(record).partition(" ")
    if where == "stdout":
        print(line)
    elif where == "stderr":
        print(line, file=sys.stderr)
    else:
        {"debug": log.debug, "info": log.info, "warn": log.warn, "error": log.error}[where](line)
    output.write(record.edit())


def time(record: Record, output: Output) -> None:
    output.write(record.edit(timestamp=int(text(record))))


def place(record: Record, output: Output) -> None:
    edited = record.edit()
    headers = dict(reversed(record.headers))
    if "key" in headers:
        edited.key = headers["key"]
    to = headers.get("place")
    if to == b"by-key":
        edited.by_key()
    elif to is not None:
        edited.partition(int(to))
    output.write(edited)


def where(record: Record, output: Output) -> None:
    output.write(NewRecord(value=f"partition={record.partition} offset={record.offset} timestamp={record.timestamp}"))


def panic(record: Record, output: Output) -> None:
    if record.value == b"panic":
        os.abort()
    output.write(record.edit())


def chance(record: Record, output: Output) -> None:
    drawn = (random.random(), random.Random().random(), secrets.token_hex(8), uuid.uuid4())
    output.write(record.edit(value=" ".join(map(str, drawn))))


def text(record: Record) -> str:
    return (record.value or b"").decode()


FUNCTIONS: Dict[str, Callable[[Record, Output], None]] = {
    "forward": forward,
    "edit": edit,
    "strip": strip,
    "new": new,
    "filter": keep,
    "repeat": repeat,
    "large": large,
    "fan-out": fan_out,
    "route": route,
    "fail": fail,
    "environment": environment,
    "log": log_line,
    "time": time,
    "place": place,
    "where": where,
    "panic": panic,
    "random": chance,
}


@transform
def run(record: Record, output: Output) -> None:
    """Runs the function that the environment names."""
    name = os.environ.get("CONFORMANCE_FUNCTION", "")
    if name not in FUNCTIONS:
        raise LookupError(f'there is no function "{name}"')
    FUNCTIONS[name](record, output)

"""Runs a transform over the records of a call: what the engine and native tests have in common."""

from __future__ import annotations

import os.path
from types import TracebackType
from typing import Iterable, Optional

from ._output import Output
from ._register import TransformFn
from ._section import InputBatch, OutputSection, read, sections

# Bytes of a failure's message.
_MESSAGE_BYTES_MAX = 1024
_SDK_FOLDER = os.path.dirname(os.path.abspath(__file__))


def run(
    function: TransformFn, output: Output, partition: int, batches: Iterable[InputBatch]
) -> tuple[list[OutputSection], list[tuple[int, str]]]:
    """Runs ``function`` over the records of ``batches``: what it wrote, and offset and message of those that failed.

    Raises Malformed where a batch cannot be read, MemoryError where memory ran out.
    """
    written: list[tuple[int, int, int, bytes]] = []
    failures: list[tuple[int, str]] = []
    output._written = written
    try:
        for batch in batches:
            for record in read(batch, partition):
                before = len(written)
                output._timestamp = record.timestamp
                try:
                    returned: object = function(record, output)  # type: ignore[func-returns-value]
                    if returned is not None:
                        _refuse(returned)
                except MemoryError:
                    # Not this record's fault alone: the call's other records and earlier calls hold memory too.
                    raise
                except BaseException as error:  # SystemExit must not cost the siblings either.
                    del written[before:]
                    failures.append((record.offset, message_of(error, function)))
        return sections(written), failures
    finally:
        output._written = []


def _refuse(returned: object) -> None:
    raise TypeError(f"the transform returned a {type(returned).__name__}; records are written with output.write(...)")


def message_of(error: BaseException, function: TransformFn) -> str:
    """What people are told of ``error``: its type, its text and the line of ``function``'s module it came from."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = ""
    place = _place(error.__traceback__, function)
    whole = (f"{name}: {text}" if text else name).encode("utf-8", "replace")
    room = _MESSAGE_BYTES_MAX - len(place.encode())
    if len(whole) <= room:
        return whole.decode() + place
    return whole[:room].decode("utf-8", "ignore") + "..." + place


def _place(traceback: Optional[TracebackType], function: TransformFn) -> str:
    """The innermost line of the project, as `` (file.py:12)``."""
    folder = os.path.dirname(function.__code__.co_filename) if hasattr(function, "__code__") else ""
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith(_SDK_FOLDER) and (not folder or file.startswith(folder)):
            name = file[len(folder) :].lstrip("/\\") if folder else os.path.basename(file)
            found = f" ({name}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found

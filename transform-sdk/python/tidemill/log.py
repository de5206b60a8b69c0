"""Lines for whoever runs the transform, read with ``transform logs``: ``tidemill.log.info("3 seen")``.

Lines of the standard module ``logging`` go the same way, at INFO and above unless its root logger says otherwise, and so do
standard output (info) and standard error (warn). In native tests lines go to standard error, or where
``tidemill.testing`` collects them.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Any, Callable

LEVELS = ("debug", "info", "warn", "error")

# An unfinished line of standard output is handed on when it has this many characters; the broker cuts lines sooner.
_LINE_MAX = 16 * 1024


def _to_stderr(level: str, message: str) -> None:
    print(f"{level}: {message}", file=sys.__stderr__)


_sink: Callable[[str, str], None] = _to_stderr


def _write(level: str, message: object, args: tuple[object, ...]) -> None:
    text = str(message)
    if args:
        text = text % args
    _sink(level, text.encode("utf-8", "replace").decode())


def debug(message: object, *args: object) -> None:
    """Writes a line for whoever hunts a fault. Further arguments are put in the places marked ``%s``."""
    _write("debug", message, args)


def info(message: object, *args: object) -> None:
    """Writes a line worth knowing. Further arguments are put in the places marked ``%s``."""
    _write("info", message, args)


def warn(message: object, *args: object) -> None:
    """Writes a line worth a look. Further arguments are put in the places marked ``%s``."""
    _write("warn", message, args)


def error(message: object, *args: object) -> None:
    """Writes a line about something wrong. Further arguments are put in the places marked ``%s``."""
    _write("error", message, args)


warning = warn


class Handler(logging.Handler):
    """Hands lines of ``logging`` on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hands ``record`` on; a traceback in lines of its own."""
        try:
            text = self.format(record)
        except Exception as error:
            # As a handler must: a line that cannot be formatted fails no record.
            text = f"a log line could not be formatted: {error!r}: {record.msg!r}"
        level = (
            "error"
            if record.levelno >= logging.ERROR
            else "warn"
            if record.levelno >= logging.WARNING
            else "info"
            if record.levelno >= logging.INFO
            else "debug"
        )
        for line in text.splitlines() or [""]:
            _write(level, line, ())


class LineWriter(io.TextIOBase):
    """A text stream whose lines become log lines of one level."""

    def __init__(self, level: str) -> None:
        super().__init__()
        self._level = level
        self._open = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: Any) -> int:
        """Takes ``text``; whole lines are handed on at once."""
        lines = (self._open + text).split("\n")
        self._open = lines.pop()
        for line in lines:
            _write(self._level, line, ())
        if len(self._open) > _LINE_MAX:
            self.finish()
        return len(text)

    def finish(self) -> None:
        """Hands on a line that was not ended."""
        if self._open:
            line, self._open = self._open, ""
            _write(self._level, line, ())

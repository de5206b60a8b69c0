"""Write Tidemill transforms in Python: one function from a record to the records it becomes.

    from tidemill import Output, Record, transform

    @transform
    def shout(record: Record, output: Output) -> None:
        if record.value is not None:
            output.write(record.edit(value=record.text().upper()))

An exception concerns its record only: what was written for it is taken back, its siblings are unaffected, and the
transform's ``on_error`` policy decides what becomes of it. Nothing kept in memory between calls may be relied on.
"""

from . import log
from ._output import Output, OutputTopic, UnknownOutput
from ._record import NewRecord, Record
from ._register import TransformFn, transform

__all__ = [
    "NewRecord",
    "Output",
    "OutputTopic",
    "Record",
    "TransformFn",
    "UnknownOutput",
    "log",
    "transform",
]

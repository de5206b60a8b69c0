"""The module's side of the contract: what componentize-py makes a component of. It runs only there.

Importing it happens when the component is built, and the memory that leaves is what each instance starts with.
"""

import gc
import importlib
import io
import logging
import os
import random
import sys
from typing import Optional

import tidemill_project  # written by build.py
from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import processor
from wit_world.imports import log as host_log
from wit_world.imports import types

from . import _imports, _register, _run, log
from ._output import Output
from ._record import BY_INPUT, BY_KEY
from ._section import Malformed

_LEVELS = {
    "debug": host_log.Level.DEBUG,
    "info": host_log.Level.INFO,
    "warn": host_log.Level.WARN,
    "error": host_log.Level.ERROR,
}


_BY_INPUT = types.Placement_ByInput()
_BY_KEY = types.Placement_ByKey()
# componentize-py never frees what it hands to the engine, so an instance loses as much memory as it wrote. The engine replaces
# one that has no memory left; it must happen before a function notices. So after this many bytes written ...
_WRITTEN_BETWEEN_PROBES = 2 << 20
# ... it is tried whether this much more than a call's input can be had.
_PROBE_BYTES = 4 << 20


def _load() -> _register.TransformFn:
    logging.getLogger().addHandler(log.Handler())
    logging.getLogger().setLevel(logging.INFO)
    module = importlib.import_module(tidemill_project.MODULE)
    function = _register.find(module)
    _imports.load_what_functions_import()
    return function


_function = _load()
_output: Optional[Output] = None
_streams = (log.LineWriter("info"), log.LineWriter("warn"))


def _start() -> Output:
    """The first call of an instance: what was frozen when the component was built comes to life."""
    random.seed()
    log._sink = lambda level, message: host_log.write(_LEVELS[level], message)
    sys.stdout, sys.stderr = _streams
    names = [name for name in os.environ.get("TIDEMILL_OUTPUTS", "").split(",") if name]
    if not names:
        raise Err("TIDEMILL_OUTPUTS names no output topic")
    return Output(names)


class Processor(exports.Processor):
    """What the engine calls."""

    def process(self, partition: int, batches: list[processor.InputBatch]) -> processor.Outcome:
        """Transforms the records of a call; see ``wit/processor.wit``."""
        global _output, _written_since_probe
        if _output is None:
            _output = _start()
        try:
            if _written_since_probe > _WRITTEN_BETWEEN_PROBES:
                _probe(batches)
            written, failures = _run.run(_function, _output, partition, batches)
            outputs = [
                processor.OutputSection(output, _placement(placement), base, latest, count, records)
                for output, placement, base, latest, count, records in written
            ]
            _written_since_probe += sum(len(section.records) for section in written)
        except MemoryError:
            # A trap makes the engine call another instance, and each record alone if that has too little memory as well.
            os.abort()
        except Malformed as error:
            raise Err(f"the input cannot be read: {error}") from None
        finally:
            for stream in _streams:
                stream.finish()
        return processor.Outcome(outputs, [types.RecordFailure(*failure) for failure in failures])


_written_since_probe = 0


def _probe(batches: list[processor.InputBatch]) -> None:
    global _written_since_probe
    _written_since_probe = 0
    # Its buffer is taken and given back untouched: writing zeros to all of it would cost more than the rest of a small call.
    io.BufferedWriter(io.BytesIO(), _PROBE_BYTES + 3 * sum(len(batch.records) for batch in batches))


def _placement(placement: int) -> types.Placement:
    if placement == BY_INPUT:
        return _BY_INPUT
    return _BY_KEY if placement == BY_KEY else types.Placement_Partition(placement)


# What is there by now stays: the collector need not look at it in each instance.
gc.collect()
gc.freeze()
# Records are no cycles: looking for them after each 2,000 objects would be wasted.
gc.set_threshold(50_000)

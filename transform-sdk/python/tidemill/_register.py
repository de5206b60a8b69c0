"""``@transform``: which function of a module is the transform."""

import inspect
from types import ModuleType
from typing import Callable

from ._output import Output
from ._record import Record

#: The shape of a transform.
TransformFn = Callable[[Record, Output], None]

_MARK = "__tidemill_transform__"


class NotATransform(Exception):
    """What a module has cannot be a transform; the message says what to do."""


def transform(function: TransformFn) -> TransformFn:
    """Marks the function that the broker calls for each record. A project has one.

    Raises NotATransform where it cannot be called with a record and an output.
    """
    name = getattr(function, "__name__", repr(function))
    if not callable(function):
        raise NotATransform(f"@transform goes in front of a function, not {name}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise NotATransform(f"{name} is async; a transform is a plain function (def, not async def)")
    if inspect.isgeneratorfunction(function):
        raise NotATransform(f"{name} yields; a transform writes with output.write(...) instead")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise NotATransform(
            f"{name} must take two arguments: def {name}(record: Record, output: Output) -> None"
        ) from None
    setattr(function, _MARK, True)
    return function


def find(module: ModuleType) -> TransformFn:
    """The transform of ``module``.

    Raises NotATransform where there is none or more than one.
    """
    found: dict[int, TransformFn] = {
        id(thing): thing for thing in vars(module).values() if getattr(thing, _MARK, False) is True
    }
    if len(found) == 1:
        return next(iter(found.values()))
    name = module.__name__
    if not found:
        raise NotATransform(f"{name}.py has no transform; put @transform in front of a function")
    names = " and ".join(function.__name__ for function in found.values())
    raise NotATransform(f"{name}.py has more than one transform: {names}; leave @transform at one of them")

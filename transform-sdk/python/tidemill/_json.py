"""JSON as RFC 8259 has it, with coders that are made once: ``json.dumps`` with settings makes one for each call."""

import json
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from typing import Any, Callable, Iterable, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_scan = _decoder.scan_once  # type: ignore[attr-defined]
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_escaping = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def _make_chunks() -> Callable[[Any, int], Iterable[str]]:
    # JSONEncoder.encode makes this coder anew for each text.
    if c_make_encoder is None:
        return lambda value, _: _encoder.iterencode(value)
    return c_make_encoder(None, _encoder.default, encode_basestring, None, ":", ",", False, False, False)  # type: ignore[no-any-return]


_chunks = _make_chunks()


def parse(text: bytes) -> Any:
    """The value that ``text`` is.

    Raises ValueError where it is not JSON in UTF-8, with the place.
    """
    try:
        decoded = text.decode()
        if decoded[:1] == "{":
            value, end = _scan(decoded, 0)
            if end == len(decoded):
                return value
        return _decoder.decode(decoded)
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON: not UTF-8 at byte {error.start}") from None
    except StopIteration as error:
        raise ValueError(f"not JSON: Expecting value: char {error.value}") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def dump(value: Any) -> bytes:
    """``value`` as JSON in UTF-8, without spaces.

    Raises TypeError where it has no JSON form, ValueError where it is or holds a NaN or an infinity.
    """
    try:
        return "".join(_chunks(value, 0)).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can only write as an escape.
        return _escaping.encode(value).encode()

"""Hands on orders that keep the rules. One that does not fails with all that is wrong with it, and goes to the dead-letter topic with
that reason in a header."""

import os
from datetime import datetime
from typing import Any, Iterator

from tidemill import Output, Record, transform


class Invalid(Exception):
    """Why an order is refused."""


@transform
def validate(record: Record, output: Output) -> None:
    """Hands on one order as it came, or fails."""
    order = record.json()
    if not isinstance(order, dict):
        raise Invalid("an order is a JSON object")
    wrong = list(problems(order))
    if wrong:
        raise Invalid("; ".join(wrong))
    output.forward(record)


def problems(order: dict[str, Any]) -> Iterator[str]:
    """What is wrong with ``order``."""
    if not is_count(order.get("id")):
        yield "id must be a positive whole number"
    country = order.get("country")
    if not isinstance(country, str) or len(country) != 2 or not country.isascii() or not country.isupper():
        yield "country must be two capital letters"
    if not isinstance(order.get("product"), str) or not order["product"].strip():
        yield "product must be named"
    quantity = order.get("quantity")
    most = int(os.environ.get("MAX_QUANTITY", "1000"))
    if not is_count(quantity):
        yield "quantity must be a positive whole number"
    elif quantity > most:
        yield f"quantity must be at most {most}, not {quantity}"
    cents = order.get("cents")
    if not isinstance(cents, int) or isinstance(cents, bool) or cents < 0:
        yield "cents must be a whole number, 0 or more"
    if not is_time(order.get("ordered_at")):
        yield "ordered_at must be a time like 2026-04-02T10:00:00Z"


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_time(value: object) -> bool:
    try:
        datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return True

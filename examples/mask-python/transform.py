"""Masks the email of JSON records: ada@example.com becomes ***@example.com. Key, headers, timestamp and the other members stay as
they are."""

from tidemill import Output, Record, transform


@transform
def mask_email(record: Record, output: Output) -> None:
    """Hands every record on, with what identifies a person in its email masked. A value that is no JSON object, or has an email that is no
    text, is refused."""
    if record.value is None:
        return output.forward(record)
    person = record.json()
    # Anything else than text may hold what was to be masked.
    if not isinstance(person, dict):
        raise ValueError("the value is no JSON object")
    if "email" not in person:
        return output.forward(record)
    email = person["email"]
    if not isinstance(email, str | None):
        raise ValueError("the email is no text")
    if email is not None:
        _, at, domain = email.rpartition("@")
        person["email"] = "***" + at + domain if at else "***"
    # Written anew even for null: of a name that repeats, JSON keeps the last, and a text may stand before it.
    output.write(record.edit(json=person))

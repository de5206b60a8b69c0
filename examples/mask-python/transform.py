"""Masks the email of JSON records: ada@example.com becomes ***@example.com. Key, headers, timestamp and the other members stay as
they are."""

from tidemill import Output, Record, transform


@transform
def mask_email(record: Record, output: Output) -> None:
    """Hands every record on, with what identifies a person in its email masked. A value that is not JSON, or has an email that is no text,
    is refused."""
    if record.value is None:
        return output.forward(record)
    person = record.json()
    email = person.get("email") if isinstance(person, dict) else None
    if email is None:
        return output.forward(record)
    if not isinstance(email, str):
        # A list or an object may hold what was to be masked.
        raise ValueError("the email is no text")
    _, at, domain = email.rpartition("@")
    person["email"] = "***" + at + domain if at else "***"
    output.write(record.edit(json=person))

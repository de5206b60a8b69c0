"""Masks the email of JSON records: ada@example.com becomes ***@example.com. Key, headers, timestamp and the other members stay as
they are."""

from tidemill import Output, Record, transform


@transform
def mask_email(record: Record, output: Output) -> None:
    """Hands every record on, with what identifies a person in its email masked. A value that is not JSON is refused."""
    if record.value is None:
        return output.forward(record)
    person = record.json()
    if not isinstance(person, dict) or not isinstance(person.get("email"), str):
        return output.forward(record)
    _, at, domain = person["email"].rpartition("@")
    person["email"] = "***" + at + domain if at else "***"
    output.write(record.edit(json=person))

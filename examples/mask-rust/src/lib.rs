//! Masks the `email` of JSON records: `ada@example.com` becomes `***@example.com`. Everything else stays as it is, key,
//! headers, timestamp and the other members included.

use tidemill_sdk::{Output, Parts, Record, Result, find_last, json};

/// Hands every record on, with what identifies a person in its `email` masked. A value that is no JSON object, or has an `email`
/// that is no text, is refused: it may hold what was to be masked.
#[tidemill_sdk::transform]
pub fn mask_email(record: Record<'_>, output: &mut Output) -> Result<()> {
    let Some(value) = record.value() else {
        return output.forward(&record);
    };
    let mut parts = Parts::new();
    let mut copied = 0;
    json::for_each_string_strictly(value, "email", |email| {
        let at = find_last(&value[email.clone()], b'@');
        parts.push(&value[copied..email.start]);
        parts.push(b"***");
        copied = at.map_or(email.end, |at| email.start + at);
    })?;
    parts.push(&value[copied..]);
    output.write(record.edit().value_parts(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::{TestRecord, run};

    fn masked(value: &str) -> String {
        let ran = run(mask_email, [TestRecord::new().value(value)]);
        assert_eq!(ran.failures(), [], "{value}");
        ran.records()[0].value_str().unwrap().to_owned()
    }

    #[test]
    fn email_is_masked_and_the_rest_kept() {
        let record = TestRecord::new()
            .key("17")
            .value(r#"{"id": 17, "email": "ada@example.com", "country": "GB"}"#)
            .header("trace", "1");
        let expected = record
            .clone()
            .value(r#"{"id": 17, "email": "***@example.com", "country": "GB"}"#);
        assert_eq!(run(mask_email, [record]).records(), [expected]);
    }

    #[test]
    fn only_the_member_of_the_outermost_object_is_masked() {
        let nested =
            r#"{"user":{"email":"a@b.c"},"list":["email",{"email":"d@e.f"}],"text":"email"}"#;
        assert_eq!(masked(nested), nested);
    }

    #[test]
    fn however_json_may_write_it() {
        assert_eq!(
            masked(" {\n\t\"email\" :\r \"a@b.c\" } "),
            " {\n\t\"email\" :\r \"***@b.c\" } "
        );
        assert_eq!(
            masked(r#"{"\u0065m\u0061il":"a@b.c"}"#),
            r#"{"\u0065m\u0061il":"***@b.c"}"#
        );
        assert_eq!(
            masked(r#"{"email":"\"a\\@x\"@b.c"}"#),
            r#"{"email":"***@b.c"}"#
        );
        assert_eq!(masked(r#"{"email":"a\u0040b.c"}"#), r#"{"email":"***"}"#);
        assert_eq!(
            masked(r#"{"email":"a@b","x":1,"email":"c@d"}"#),
            r#"{"email":"***@b","x":1,"email":"***@d"}"#
        );
        assert_eq!(masked(r#"{"email":"nobody"}"#), r#"{"email":"***"}"#);
        assert_eq!(
            masked(r#"{"email":null,"e":"email"}"#),
            r#"{"email":null,"e":"email"}"#
        );
    }

    #[test]
    fn record_without_value_is_handed_on() {
        let tombstone = TestRecord::new().key("k");
        assert_eq!(run(mask_email, [tombstone.clone()]).records(), [tombstone]);
    }

    #[test]
    fn value_that_is_not_json_is_refused_with_the_place() {
        let ran = run(mask_email, [TestRecord::new().value(r#"{"email": }"#)]);
        assert_eq!(ran.records(), []);
        assert_eq!(
            ran.failures(),
            [(0, "not JSON: a value was expected at byte 10".to_owned())]
        );
    }

    #[test]
    fn what_may_hold_an_email_that_is_not_masked_is_refused_without_telling_it() {
        let values = [
            r#"{"email":["ada@example.com"]}"#,
            r#"{"email":{"address":"ada@example.com"}}"#,
            r#"{"id":1,"email":5,"country":"GB"}"#,
            r#"{"email":"a@b.c","email":["ada@example.com"]}"#,
            r#"[{"email":"ada@example.com"}]"#,
            r#""ada@example.com""#,
        ];
        let ran = run(
            mask_email,
            values.map(|value| TestRecord::new().value(value)),
        );
        assert_eq!(ran.records(), []);
        assert_eq!(ran.failures().len(), values.len());
        assert!(ran.failures().iter().all(|(_, why)| !why.contains("ada")));
    }
}

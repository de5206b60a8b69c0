//! `mask`, natively.

use tidemill_sdk::testing::{Ran, TestRecord, run};

use super::*;

const KEY: &str = "0123456789abcdef";

fn config(text: &str) -> Config {
    Config::with_key(text, |name| (name == "MASK_KEY").then(|| KEY.to_owned())).unwrap()
}

fn edited(settings: &str, text: &str) -> String {
    let edited = edit(&config(settings), text.as_bytes()).unwrap();
    edited.map_or_else(
        || text.to_owned(),
        |bytes| String::from_utf8(bytes).unwrap(),
    )
}

fn ran(settings: &str, values: &[&[u8]]) -> Ran {
    let config = config(settings);
    let records = values
        .iter()
        .map(|v| TestRecord::new().key("k").header("h", "x").value(v));
    run(|record, output| apply(&config, record, output), records)
}

#[test]
fn everything_else_stays_byte_for_byte() {
    let text = r#" { "a" : 1.0e+5, "card":"4111111111111234","big":123456789012345678901234567890.10, "a":"dup\u00e9",  "z":[ ] } "#;
    let expected = text.replace("4111111111111234", "************1234");
    assert_eq!(
        edited(r#"{"fields":["$.card"],"keep_last":4}"#, text),
        expected
    );
    assert_eq!(edited(r#"{"fields":["$.nothing"]}"#, text), text);
}

#[test]
fn field_written_another_way_or_twice_does_not_leak() {
    let text = r#"{"card":"1234","\u0063ard":"1234","c\u0061rd":1234,"x":{"card":"in the open"},"card":null,"card":true}"#;
    let expected = r#"{"card":"****","\u0063ard":"****","c\u0061rd":"****","x":{"card":"in the open"},"card":null,"card":null}"#;
    assert_eq!(edited(r#"{"fields":["$.card"]}"#, text), expected);
}

#[test]
fn every_scalar_below_a_masked_container_is_masked() {
    let text = r#"{"p":{"name":"Ada","n":[12,"x",{"deep":true}],"o":null},"q":"open"}"#;
    let expected = r#"{"p":{"name":"***","n":["**","*",{"deep":null}],"o":null},"q":"open"}"#;
    assert_eq!(edited(r#"{"fields":["$.p"]}"#, text), expected);
    assert_eq!(
        edited(r#"{"fields":["$.p"],"action":"redact"}"#, text),
        r#"{"p":null,"q":"open"}"#
    );
    let inner =
        r#"{"fields":["$.p",{"path":"$.p.n","action":"redact","replacement":"<\"gone\">"}]}"#;
    assert_eq!(
        edited(inner, text),
        r#"{"p":{"name":"***","n":"<\"gone\">","o":null},"q":"open"}"#
    );
}

#[test]
fn inner_redaction_does_not_end_the_outer_mask() {
    let text = r#"{"p":{"a":["x"],"b":"secret","c":{"d":"secret"}}}"#;
    let settings = r#"{"fields":["$.p",{"path":"$.p.a","action":"redact"}]}"#;
    let expected = r#"{"p":{"a":null,"b":"******","c":{"d":"******"}}}"#;
    assert_eq!(edited(settings, text), expected);
}

#[test]
fn deep_and_wild_paths_reach_all() {
    let text = r#"{"ssn":"1","items":[{"ssn":"22","x":[{"ssn":"333"}]},{"ssn":4444}]}"#;
    assert_eq!(
        edited(r#"{"fields":["$.items[*].ssn"]}"#, text),
        r#"{"ssn":"1","items":[{"ssn":"**","x":[{"ssn":"333"}]},{"ssn":"****"}]}"#
    );
    assert_eq!(
        edited(r#"{"fields":["$..ssn"]}"#, text),
        r#"{"ssn":"*","items":[{"ssn":"**","x":[{"ssn":"***"}]},{"ssn":"****"}]}"#
    );
}

#[test]
fn hash_and_token_hide_what_a_text_means_however_it_is_written() {
    for action in ["hash", "tokenize"] {
        let settings = format!(r#"{{"fields":["$.e"],"action":"{action}"}}"#);
        let plain = edited(&settings, r#"{"e":"adé"}"#);
        assert_eq!(plain, edited(&settings, r#"{"e":"a\u0064\u00e9"}"#));
        assert!(!plain.contains("adé"));
        let number = edited(&settings, r#"{"e":4111111111111234}"#);
        assert!(!number.contains("4111111111111234"));
    }
}

#[test]
fn what_cannot_be_masked_does_not_leak() {
    let deep = "[".repeat(1 << 20);
    let values: [&[u8]; 6] = [
        b"card=4111",
        b"",
        b"{\"card\":\"4111\"",
        b"{\"card\":\"\xff4111\"}",
        deep.as_bytes(),
        br#"{"card":"4111"} x"#,
    ];
    let failed = ran(r#"{"fields":["$.card"]}"#, &values);
    assert_eq!((failed.records().len(), failed.failures().len()), (0, 6));
    assert!(failed.failures()[0].1.contains("not JSON"));
    let dropped = ran(r#"{"fields":["$.card"],"on_invalid":"drop"}"#, &values);
    assert_eq!((dropped.records().len(), dropped.failures().len()), (0, 0));
}

#[test]
fn half_surrogate_pairs_and_huge_numbers_are_masked() {
    let text = r#"{"card":"\ud83d1234\udc00","n":1e999999999}"#;
    assert_eq!(
        edited(r#"{"fields":["$.card","$.n"]}"#, text),
        r#"{"card":"******","n":"***********"}"#
    );
}

#[test]
fn tombstones_pass_and_the_record_is_kept() {
    let config = config(r#"{"fields":["$.card"]}"#);
    let input = [
        TestRecord::new().key("k"),
        TestRecord::new()
            .key("k")
            .header("h", "x")
            .value(r#"{"card":"1"}"#),
    ];
    let ran = run(
        |record, output| apply(&config, record, output),
        input.clone(),
    );
    assert_eq!(ran.records()[0], input[0]);
    assert_eq!(ran.records()[1], input[1].clone().value(r#"{"card":"*"}"#));
}

#[test]
fn wrong_settings_are_refused_with_a_sentence() {
    let refused = |text: &str| Config::with_key(text, |_| None).unwrap_err();
    assert_eq!(
        edited(
            r#"{"fields":[{"path":"$.a","keep_last":2}]}"#,
            r#"{"a":"123456"}"#
        ),
        r#"{"a":"****56"}"#
    );
    for (text, says) in [
        ("{}", "missing setting `fields`"),
        (r#"{"fields":[]}"#, "at least one path"),
        (r#"{"fields":["card"]}"#, "begins with `$`"),
        (
            r#"{"fields":["$.a"],"feilds":1}"#,
            "unknown setting `feilds`",
        ),
        (
            r#"{"fields":["$.a"],"action":"blur"}"#,
            "unknown variant `blur`",
        ),
        (
            r#"{"fields":["$.a"],"keep_last":-1}"#,
            "keep_last is integer `-1`, not a whole number",
        ),
        (
            r#"{"fields":["$.a"],"keep_last":"four"}"#,
            "keep_last is string \"four\", not a whole number, 0 or more; for example keep_last=4",
        ),
        (
            r#"{"fields":"email"}"#,
            "fields is string \"email\", not a list; for example fields=[\"$.card\"",
        ),
        (
            r#"{"fields":[5]}"#,
            "fields: a field is a path, or an object with a path; for example",
        ),
        (
            r#"{"fields":[{"path":"$.a","acton":"redact"}]}"#,
            "fields: unknown setting `acton`, expected one of `path`, `action`",
        ),
        (r#"{"keep_last":4}"#, "missing setting `fields`"),
        (r#"{"fields":["$.a"],"keep_last":1000}"#, "at most 64"),
        (
            r#"{"fields":["$.a"],"on_invalid":"pass"}"#,
            "use fail or drop",
        ),
        (r#"{"fields":["$.a"],"action":"hash"}"#, "MASK_KEY"),
        (
            r#"{"fields":["$.a"],"action":"tokenize","key_env":"PEPPER"}"#,
            "PEPPER",
        ),
    ] {
        assert!(refused(text).contains(says), "{text}: {}", refused(text));
    }
}

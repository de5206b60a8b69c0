//! `filter`, natively.

use tidemill_sdk::testing::{Ran, TestRecord, run};

use super::*;

fn ran(condition: &str, on_invalid: &str, records: impl IntoIterator<Item = TestRecord>) -> Ran {
    let settings = serde_json::json!({"condition": condition, "on_invalid": on_invalid});
    let config = Config::read(&settings.to_string()).unwrap_or_else(|e| panic!("{condition}: {e}"));
    run(|record, output| apply(&config, record, output), records)
}

fn holds(condition: &str, value: &str) -> bool {
    let record = TestRecord::new()
        .key("order-7")
        .header("source", "web")
        .header("n", [0xff])
        .null_header("none")
        .timestamp(1000)
        .value(value);
    let ran = ran(condition, "fail", [record]);
    assert_eq!(ran.failures(), [], "{condition}");
    ran.records().len() == 1
}

const ORDER: &str = r#"{"id":9007199254740993,"amount":100.50,"country":"DE","tags":["a","b"],"nested":{"x":null,"ok":true},"t\u0065xt":"\u00fc"}"#;

#[test]
fn conditions_hold() {
    for condition in [
        "$.amount == 100.5",
        "$.amount > 100 and $.amount < 100.51",
        "$.id == 9007199254740993",
        "$.id != 9007199254740992",
        "$.id > 9007199254740992",
        "$.country in [\"AT\", 'DE']",
        "$.amount in [1, 1.005e2]",
        "$.country matches '^D'",
        "$.text == \"ü\"",
        "$.tags[*] == 'b'",
        "$..ok == true",
        "exists $.tags and exists $.nested.x and not exists $.missing",
        "$.nested.x == null",
        "$.missing != 1",
        "not ($.missing == 1 or $.missing < 1 or $.missing > 1)",
        "key == 'order-7' && key matches '\\d+$'",
        "header(\"source\") == \"web\" and header('none') == null and !exists header('other')",
        "timestamp >= 1000",
        "value matches 'DE'",
        "100 < $.amount",
        "$.country == 'DE' or $.missing == 1 and $.missing == 2",
        "!($.country == 'FR')",
        "$['country']=='DE'",
        "'a' < 'b'",
    ] {
        assert!(holds(condition, ORDER), "{condition}");
        assert!(
            !holds(&format!("not ({condition})"), ORDER),
            "not {condition}"
        );
    }
}

#[test]
fn conditions_do_not_hold() {
    for condition in [
        "$.amount == '100.5'",
        "$.missing == null",
        "$.country < 5",
        "$.tags == 'a'",
        "$.amount matches '1'",
        "($.country == 'DE' or $.missing == 1) and $.missing == 2",
        "$.country == 'de'",
    ] {
        assert!(!holds(condition, ORDER), "{condition}");
    }
}

#[test]
fn what_is_not_json_fails_only_where_paths_ask() {
    let bad = || {
        [
            TestRecord::new().key("k").value("hello"),
            TestRecord::new().key("k").value("[".repeat(1 << 16)),
        ]
    };
    assert_eq!(ran("$.a == 1", "fail", bad()).failures().len(), 2);
    assert_eq!(ran("$.a == 1", "pass", bad()).records().len(), 2);
    let dropped = ran("$.a == 1", "drop", bad());
    assert_eq!((dropped.records().len(), dropped.failures().len()), (0, 0));
    assert_eq!(ran("key == 'k'", "fail", bad()).records().len(), 2);
}

#[test]
fn record_without_value_has_nothing_at_the_end_of_paths() {
    let tombstone = TestRecord::new().key("k");
    assert_eq!(
        ran("$.a != 1 and not exists value", "fail", [tombstone.clone()]).records(),
        [tombstone]
    );
}

#[test]
fn what_is_no_condition_is_refused_with_the_place() {
    for (condition, says) in [
        ("", "at the end"),
        (
            "$.a",
            "==, !=, <, <=, >, >=, in or matches was expected at the end",
        ),
        ("$.a = 1", "write `==`"),
        ("$.a == ", "was expected at the end"),
        (
            "$.a == 1 $.b == 2",
            "should end before `$.b`, at character 9",
        ),
        ("($.a == 1", "`)` was expected"),
        ("$.a in []", "a text or number was expected at character 8"),
        ("$.a matches 'a('", "regex"),
        ("$.a matches 5", "a regular expression in quotes"),
        ("$.a matches '(a{1000}){1000}'", "limit"),
        ("a == 1", "not `a`"),
        ("$.a == 01", "no number"),
        ("$. == 1", "no path"),
        ("'open == 1", "not closed"),
        ("$.a == 1 # b", "`#` at character 9"),
        (&"(".repeat(100_000), "deeper than 64"),
        (&"not ".repeat(100_000), "deeper than 64"),
    ] {
        let error = Condition::parse(condition).unwrap_err();
        assert!(error.contains(says), "{condition:.30}: {error}");
    }
}

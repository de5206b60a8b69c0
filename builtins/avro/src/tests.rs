//! `avro`, natively.

use tidemill_sdk::testing::{TestRecord, run};

use super::*;

const SCHEMA: &str = r#"{
    "type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "id", "type": "long"},
        {"name": "email", "type": ["null", "string"], "default": null},
        {"name": "amount", "type": "double"},
        {"name": "small", "type": "float", "default": 0.1},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["new", "paid"]}},
        {"name": "again", "type": ["State", "null"], "default": "new"},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "counts", "type": {"type": "map", "values": "int"}, "default": {}},
        {"name": "raw", "type": "bytes", "default": "\u0000\u00ff"},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}, "default": 0},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0},
        {"name": "sum", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}, "default": ""},
        {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}, "default": "abcd"},
        {"name": "parent", "type": ["null", "Order"], "default": null}
    ]}"#;

fn config(direction: &str, extra: &str) -> Config {
    Config::read(&format!(
        "{{\"direction\":\"{direction}\",\"schema\":{}{extra}}}",
        Value::from(SCHEMA)
    ))
    .unwrap()
}

fn simple(schema: &str) -> Config {
    Config::read(&format!(
        "{{\"direction\":\"to-avro\",\"schema\":{schema}}}"
    ))
    .unwrap()
}

const FULL: &str = r#"{"id":9007199254740993,"email":"ä@b","amount":-1.5e300,"small":0.1,"state":"paid","again":null,"tags":["x","","y"],"counts":{"a":-1,"b":2147483647},"raw":"\u0000ÿ","day":19000,"at":-1,"sum":"\u0001","four":"wxyz","parent":{"id":1,"email":null,"amount":0.0,"small":0.5,"state":"new","again":"paid","tags":[],"counts":{},"raw":"","day":0,"at":0,"sum":"","four":"abcd","parent":null}}"#;

#[test]
fn json_comes_back_as_it_was() {
    let config = config("to-avro", "");
    let datum = config.to_avro(FULL.as_bytes()).unwrap();
    assert_eq!(config.to_json(&datum).unwrap(), FULL);
}

#[test]
fn datum_is_what_the_specification_says() {
    // Avro 1.12, "Binary encoding".
    let record = r#"{"type":"record","name":"test","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}"#;
    assert_eq!(
        simple(record).to_avro(br#"{"b":"foo","a":27}"#).unwrap(),
        [0x36, 0x06, 0x66, 0x6f, 0x6f]
    );
    let array = simple(r#"{"type":"array","items":"long"}"#);
    assert_eq!(array.to_avro(b"[3,27]").unwrap(), [0x04, 0x06, 0x36, 0x00]);
    let union = simple(r#"["null","string"]"#);
    assert_eq!(union.to_avro(b"null").unwrap(), [0x00]);
    assert_eq!(union.to_avro(br#""a""#).unwrap(), [0x02, 0x02, 0x61]);
    for (number, bytes) in [
        ("0", &[0][..]),
        ("-1", &[1]),
        ("1", &[2]),
        ("-64", &[0x7f]),
        ("64", &[0x80, 0x01]),
    ] {
        assert_eq!(
            simple("\"long\"").to_avro(number.as_bytes()).unwrap(),
            bytes
        );
    }
}

#[test]
fn defaults_stand_in_and_numbers_are_taken_exactly_or_not_at_all() {
    let config = config("to-avro", "");
    let datum = config
        .to_avro(br#"{"id":1e3,"amount":1,"state":"new"}"#)
        .unwrap();
    let json = config.to_json(&datum).unwrap();
    assert!(json.starts_with(r#"{"id":1000,"email":null,"amount":1.0,"small":0.1,"state":"new","again":"new","tags":[],"#), "{json}");
    for bad in [
        "1.5",
        "9223372036854775808",
        "1e400",
        "1e300",
        "\"1\"",
        "-9223372036854775809",
    ] {
        assert!(simple("\"long\"").to_avro(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(simple("\"int\"").to_avro(b"2147483648").is_err());
    assert!(simple("\"float\"").to_avro(b"1e39").is_err());
    assert!(simple("\"double\"").to_avro(b"1e400").is_err());
    for text in ["\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "-0.0", "1e-320"] {
        let double = simple("\"double\"");
        assert_eq!(
            double
                .to_json(&double.to_avro(text.as_bytes()).unwrap())
                .unwrap(),
            text
        );
    }
}

#[test]
fn what_does_not_fit_is_named_by_its_path_without_its_value() {
    let config = config("to-avro", "");
    for (json, says) in [
        ("hello", "not JSON"),
        ("[]", "$: it is an array, the schema wants a record"),
        (
            r#"{"id":1,"amount":1,"state":"new","secret":1}"#,
            "$: it has a member that is not in the schema",
        ),
        (r#"{"id":1,"amount":1}"#, "$.state: it is missing"),
        (
            r#"{"id":1,"amount":1,"state":"secret"}"#,
            "$.state: it is none of the symbols",
        ),
        (
            r#"{"id":1,"amount":1,"state":"new","tags":["a",5]}"#,
            "$.tags[1]: it is a number, the schema wants a string",
        ),
        (
            r#"{"id":1,"amount":1,"state":"new","counts":{"x":"secret"}}"#,
            "$.counts[*]: it is a string",
        ),
        (
            r#"{"id":1,"amount":1,"state":"new","four":"secret"}"#,
            "$.four: it has 6 bytes, the schema wants 4",
        ),
        (
            r#"{"id":1,"amount":1,"state":"new","raw":"€"}"#,
            "$.raw: bytes are written",
        ),
        (
            r#"{"id":1,"amount":1,"state":"new","parent":{"id":"secret"}}"#,
            "$.parent.id: it is a string",
        ),
    ] {
        let error = config.to_avro(json.as_bytes()).unwrap_err();
        assert!(error.contains(says), "{json}: {error}");
        assert!(
            says.contains("`secret`") || !error.contains("secret"),
            "{error}"
        );
    }
}

#[test]
fn unknown_members_may_be_dropped() {
    let config = config("to-avro", ",\"unknown_fields\":\"drop\"");
    assert!(
        config
            .to_avro(br#"{"id":1,"amount":1,"state":"new","more":1}"#)
            .is_ok()
    );
}

#[test]
fn header_of_a_registry_is_written_and_checked() {
    let config = config("to-avro", ",\"schema_id\":258");
    let datum = config.to_avro(FULL.as_bytes()).unwrap();
    assert_eq!(datum[..5], [0, 0, 0, 1, 2]);
    assert_eq!(config.to_json(&datum).unwrap(), FULL);
    let mut other = datum.clone();
    other[4] = 3;
    assert!(
        config
            .to_json(&other)
            .unwrap_err()
            .contains("number 259, not 258")
    );
    assert!(config.to_json(&datum[5..]).is_err() && config.to_json(b"").is_err());
}

#[test]
fn damaged_and_hostile_datums_are_errors() {
    let config = config("to-json", "");
    let datum = config.to_avro(FULL.as_bytes()).unwrap();
    for cut in 0..datum.len() {
        assert!(config.to_json(&datum[..cut]).is_err(), "{cut}");
    }
    for at in 0..datum.len() {
        for bit in 0..8 {
            let mut damaged = datum.clone();
            damaged[at] ^= 1 << bit;
            let _ = config.to_json(&damaged);
        }
    }
    let more = [&datum[..], b"x"].concat();
    assert!(
        config
            .to_json(&more)
            .unwrap_err()
            .contains("1 bytes follow its end")
    );
    // Claimed lengths, items of no bytes, and nesting without end.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(simple("\"string\"").to_json(&huge).is_err());
    assert!(simple("\"bytes\"").to_json(&[0xff; 11]).is_err());
    let nulls = simple(r#"{"type":"array","items":"null"}"#);
    assert!(
        nulls
            .to_json(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0x7f, 0])
            .unwrap_err()
            .contains("bytes of JSON")
    );
    let list =
        simple(r#"{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"]}]}"#);
    assert!(
        list.to_json(&[2; 1 << 20])
            .unwrap_err()
            .contains("nested deeper")
    );
    let empty = simple(r#"{"type":"array","items":{"type":"record","name":"E","fields":[]}}"#);
    assert!(
        empty
            .to_json(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0x7f, 0])
            .is_err()
    );
}

#[test]
fn records_keep_key_and_headers_and_tombstones_pass() {
    let config = config("to-avro", "");
    let record = TestRecord::new().key("k").header("h", "x").timestamp(5);
    let small = r#"{"id":1,"amount":1,"state":"new"}"#;
    let ran = run(
        |r, o| apply(&config, r, o),
        [
            record.clone(),
            record.clone().value(small),
            record.clone().value("x"),
        ],
    );
    assert_eq!(
        ran.records(),
        [
            record.clone(),
            record.value(config.to_avro(small.as_bytes()).unwrap())
        ]
    );
    assert_eq!(ran.failures().len(), 1);
}

#[test]
fn wrong_settings_are_refused_with_a_sentence() {
    for (text, says) in [
        (r#"{"direction":"to-avro"}"#, "missing setting `schema`"),
        (
            r#"{"direction":"up","schema":"\"int\""}"#,
            "direction: unknown variant `up`",
        ),
        (
            r#"{"direction":"to-avro","schema":{"type":"record"}}"#,
            "the schema cannot be used",
        ),
        (
            r#"{"direction":"to-avro","schema":{"type":"nothing"}}"#,
            "the schema cannot be used",
        ),
        (
            r#"{"direction":"to-avro","schema":"{\"type\":"}"#,
            "the schema is not JSON",
        ),
        (
            r#"{"direction":"to-avro","schema":["null",["int"]]}"#,
            "a union in a union",
        ),
        (
            r#"{"direction":"to-avro","schema":{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}}"#,
            "R: two fields are called `a`",
        ),
        (
            r#"{"direction":"to-avro","schema":"int","schema_id":-1}"#,
            "schema_id is integer `-1`, not a whole number",
        ),
        (
            r#"{"direction":"to-avro","schema":"int","id":1}"#,
            "unknown setting `id`",
        ),
    ] {
        let error = Config::read(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(Config::read(r#"{"direction":"to-avro","schema":"int"}"#).is_ok());
}

#[test]
fn repeated_names_and_objects_that_look_like_numbers_are_refused() {
    let array = simple(r#"{"type":"map","values":"long"}"#);
    let error = array.to_avro(br#"{"a":1,"\u0061":2}"#).unwrap_err();
    assert!(error.contains("repeated_names=last"), "{error}");
    let token = br#"{"a":{"$serde_json::private::Number":"7"}}"#;
    assert!(array.to_avro(token).is_err());
    let last = Config::read(
        r#"{"direction":"to-avro","repeated_names":"last","schema":{"type":"map","values":"long"}}"#,
    );
    let datum = last.unwrap().to_avro(br#"{"a":1,"a":2}"#);
    assert_eq!(datum.unwrap(), [0x02, 0x02, b'a', 0x04, 0x00]);
}

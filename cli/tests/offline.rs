//! What the binary does without a broker: projects, checks of what is typed, errors that say what to do.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use common::{Folder, said, transform};

#[test]
fn init_makes_a_whole_project_and_says_how_to_go_on() {
    let folder = Folder::new();
    let output = transform(&folder.0, &["init", "mask-mine", "--language", "rust"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    for next in [
        "cd mask-mine",
        "transform build",
        "transform test",
        "transform deploy",
    ] {
        assert!(text.contains(next), "{text}");
    }
    let project = folder.0.join("mask-mine");
    for file in [
        "src/lib.rs",
        "input.jsonl",
        ".gitignore",
        "README.md",
        ".tidemill/sdk/rust/Cargo.toml",
        ".tidemill/sdk/rust/src/lib.rs",
        ".tidemill/sdk/rust/wit/world.wit",
        ".tidemill/sdk/rust-macros/src/lib.rs",
        ".tidemill/sdk/VERSION",
    ] {
        assert!(project.join(file).is_file(), "{file}");
    }
    let cargo = fs::read_to_string(project.join("Cargo.toml")).expect("it is there");
    assert!(
        cargo.contains("name = \"mask-mine\"") && cargo.lines().any(|line| line == "[workspace]"),
        "{cargo}"
    );
    let manifest = fs::read_to_string(project.join("transform.toml")).expect("it is there");
    assert!(
        manifest.contains("name = \"mask-mine\"") && !manifest.contains("{{"),
        "{manifest}"
    );
}

#[test]
fn init_leaves_a_folder_that_is_not_empty_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("mine")).expect("it can be made");
    let empty = transform(&folder.0, &["init", "mine", "--language", "rust"]);
    assert!(
        empty.status.success(),
        "an empty folder will do: {}",
        said(&empty)
    );
    let again = transform(&folder.0, &["init", "mine", "--language", "rust"]);
    assert!(!again.status.success());
    assert!(
        said(&again).contains("mine exists and is not empty"),
        "{}",
        said(&again)
    );
    let elsewhere = transform(
        &folder.0,
        &["init", "mine", "--language", "rust", "--dir", "a/b"],
    );
    assert!(elsewhere.status.success(), "{}", said(&elsewhere));
    assert!(folder.0.join("a/b/transform.toml").is_file());
}

#[test]
fn init_refuses_names_and_languages_that_cannot_be() {
    let folder = Folder::new();
    for (name, language, word) in [
        ("Mine", "rust", "a-z"),
        ("../mine", "rust", "a-z"),
        ("2nd", "rust", "a-z"),
        ("fn", "rust", "fn-records"),
        ("serde_json", "rust", "means something else"),
        ("mine", "cobol", "rust, go or python"),
        ("fmt", "go", "fmt-records"),
    ] {
        let output = transform(&folder.0, &["init", name, "--language", language]);
        assert!(!output.status.success(), "{name} {language}");
        assert!(
            said(&output).contains(word),
            "{name} {language}: {}",
            said(&output)
        );
    }
    assert_eq!(
        fs::read_dir(&folder.0).expect("it is there").count(),
        0,
        "nothing was made"
    );
}

#[test]
fn verbs_of_a_project_say_where_there_is_none() {
    let folder = Folder::new();
    // Folders above this one belong to the build and are no project.
    for verb in ["build", "test", "deploy"] {
        let output = transform(&folder.0, &[verb]);
        assert!(!output.status.success(), "{verb}");
        assert!(
            said(&output).contains("transform init NAME --language rust"),
            "{verb}: {}",
            said(&output)
        );
    }
}

#[test]
fn unknown_key_of_the_manifest_is_named_with_its_line() {
    let folder = Folder::new();
    fs::write(
        folder.0.join("transform.toml"),
        "name = \"m\"\nlanguage = \"rust\"\nmemory = 3\n",
    )
    .expect("written");
    let output = transform(&folder.0, &["build"]);
    assert!(!output.status.success());
    let told = "line 3: there is no key `memory` here; limits stand below [limits]: did you mean `memory_mb` there?";
    assert!(said(&output).contains(told), "{}", said(&output));
}

#[test]
fn build_of_a_package_without_a_module_says_what_is_missing() {
    let folder = Folder::new();
    fs::write(
        folder.0.join("transform.toml"),
        "name = \"m\"\nlanguage = \"rust\"\n",
    )
    .expect("written");
    let output = transform(&folder.0, &["build"]);
    assert!(
        said(&output).contains("Cargo.toml is missing"),
        "{}",
        said(&output)
    );
    fs::write(
        folder.0.join("Cargo.toml"),
        "[package]\nname = \"m\"\nedition = \"2024\"\n[workspace]\n",
    )
    .expect("written");
    fs::create_dir(folder.0.join("src")).expect("made");
    fs::write(folder.0.join("src/lib.rs"), "").expect("written");
    let output = transform(&folder.0, &["build"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("cdylib"), "{}", said(&output));
}

#[test]
fn verbs_without_a_broker_say_how_to_reach_one() {
    let folder = Folder::new();
    // A port that was free a moment ago and that nobody listens on.
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it is bound").to_string()
    };
    for verb in [
        &["list"][..],
        &["topic", "list"],
        &["describe", "x"],
        &["logs", "x"],
        &["consume", "x"],
        &["produce", "x"],
    ] {
        if verb[0] == "produce" {
            fs::write(folder.0.join("records"), "a\n").expect("written");
        }
        let mut arguments = verb.to_vec();
        arguments.extend(["--admin", &address]);
        if verb[0] == "produce" {
            arguments.push("records");
        }
        let output = transform(&folder.0, &arguments);
        assert!(!output.status.success(), "{verb:?}");
        let said = said(&output);
        for word in [
            address.as_str(),
            "tidemill start",
            "--admin",
            "TIDEMILL_ADMIN",
        ] {
            assert!(said.contains(word), "{verb:?}: {said}");
        }
    }
}

#[test]
fn error_that_nobody_reads_is_an_error_and_no_panic() {
    let folder = Folder::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_transform"))
        .args(["build"])
        .current_dir(&folder.0)
        .stdout(writer.try_clone().expect("it is open"))
        .stderr(writer)
        .status()
        .expect("the binary runs");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn deploy_of_a_module_says_which_flag_is_missing() {
    let folder = Folder::new();
    for (arguments, word) in [
        (&["deploy", "--module", "m.wasm"][..], "--name"),
        (&["deploy", "--module", "m.wasm", "--name", "n"], "--input"),
        (
            &[
                "deploy", "--module", "m.wasm", "--name", "n", "--input", "a",
            ],
            "--output",
        ),
        (
            &[
                "deploy", "--module", "m.wasm", "--name", "n", "--input", "a", "--output", "b",
            ],
            "m.wasm",
        ),
        (
            &[
                "deploy", "--module", "m.wasm", "--name", "n", "--input", "a", "--output", "b",
                "--env", "K",
            ],
            "KEY=VALUE",
        ),
        (
            &[
                "deploy",
                "--module",
                "m",
                "--name",
                "n",
                "--input",
                "a",
                "--output",
                "b",
                "--on-error",
                "dead-letter",
            ],
            "--dead-letter",
        ),
    ] {
        let output = transform(&folder.0, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            said(&output).contains(word),
            "{arguments:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn what_would_be_overlooked_on_the_command_line_is_refused() {
    let folder = Folder::new();
    for (line, word) in [
        (
            "deploy --builtin mask --env TRANSFORM_CONFIG={}",
            "--set KEY=VALUE",
        ),
        (
            "deploy --builtin mask --secret TRANSFORM_CONFIG=@f",
            "--set KEY=VALUE",
        ),
        (
            "deploy --env A=1 --env B=2 --env A=1",
            "--env A is given twice",
        ),
        ("deploy --time-ms 0", "--time-ms"),
        ("test records.jsonl", "--input records.jsonl"),
        (
            "topic create t --config a=1 --config a=2",
            "--config a is given twice",
        ),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = transform(&folder.0, &arguments);
        assert!(!output.status.success(), "{line}");
        assert!(said(&output).contains(word), "{line}: {}", said(&output));
    }
}

#[test]
fn answer_of_something_else_is_told_from_a_broker() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client comes");
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
    });
    let folder = Folder::new();
    let output = transform(&folder.0, &["list", "--admin", &address]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("no Tidemill broker"),
        "{}",
        said(&output)
    );
    server.join().expect("the server ends");
}

#[test]
fn refusal_of_the_broker_is_passed_on_in_its_words() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the client comes");
        let mut request = [0; 4096];
        let length = stream.read(&mut request).expect("a request");
        let body =
            r#"{"error":{"code":"topic_not_found","message":"there is no topic a/b; create it"}}"#;
        let head = format!(
            "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .expect("it is read");
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let folder = Folder::new();
    let output = transform(
        &folder.0,
        &["topic", "describe", "a/b", "--admin", &address],
    );
    assert!(!output.status.success());
    assert_eq!(said(&output), "error: there is no topic a/b; create it\n");
    let request = server.join().expect("the server ends");
    assert!(
        request.starts_with("GET /v1/topics/a%2Fb HTTP/1.1\r\n"),
        "{request}"
    );
}

/// Tests a ready-made transform on `records.jsonl`: its name, then its settings and more, a word a line.
fn test_builtin(folder: &Folder, builtin: &str, rest: &str) -> std::process::Output {
    let mut arguments = vec!["test", "--input", "records.jsonl", "--builtin", builtin];
    arguments.extend(rest.lines());
    transform(&folder.0, &arguments)
}

#[test]
fn ready_made_transform_is_tested_with_its_settings() {
    let folder = Folder::new();
    let write = |name: &str, text: &str| fs::write(folder.0.join(name), text).expect("written");
    write(
        "records.jsonl",
        "{\"id\":1,\"card\":\"4111222233334444\"}\n",
    );
    write("schema.json", "{\"required\":[\"id\"]}");
    for (builtin, rest, shown) in [
        (
            "mask",
            "--set\nfields=[\"$.card\"]\n--set\nkeep_last=4",
            "~ card: \"4111222233334444\" -> \"************4444\"",
        ),
        (
            "mask",
            "--set\nfields=[\"$.card\"]\n--set\naction=hash\n--env\nMASK_KEY=0123456789abcdef",
            "~ card: \"4111222233334444\" -> \"",
        ),
        (
            "filter",
            "--set\ncondition=$.id > 1",
            "(nothing: it is left out)",
        ),
        (
            "route",
            "--set\nfield=$.id\n--set\nroutes={\"1\":\"ones\"}\n--set\ndefault=rest\n--output\nones\n--output\nrest",
            "after   ones: {\"id\":1",
        ),
        (
            "validate",
            "--set-file\nschema=schema.json",
            "1 record read, 1 written",
        ),
    ] {
        let output = test_builtin(&folder, builtin, rest);
        assert!(output.status.success(), "{builtin}: {}", said(&output));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            text.contains("before  {\"id\":1") && text.contains(shown),
            "{builtin}: {text}"
        );
    }
    write("schema.json", "{\"required\":[\"name\"]}");
    let output = test_builtin(&folder, "validate", "--set-file\nschema=schema.json");
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("FAILED"),
        "{}",
        said(&output)
    );
}

#[test]
fn ready_made_transform_with_wrong_settings_is_not_tested() {
    let folder = Folder::new();
    fs::write(folder.0.join("records.jsonl"), "{}\n").expect("written");
    for (builtin, rest, word) in [
        ("blur", "", "mask, validate, filter, route, avro"),
        ("mask", "--set\nfeilds=[]", "unknown setting `feilds`"),
        (
            "mask",
            "--set\nfields=[\"$.a\"]\n--set\naction=hash",
            "MASK_KEY",
        ),
        (
            "route",
            "--set\nfield=$.a\n--set\nroutes={\"x\":\"xs\"}",
            "\"xs\" is not among the outputs",
        ),
        ("validate", "--set-file\nschema=none.json", "none.json"),
        ("mask", "--module\nm.wasm", "cannot be used with"),
        ("mask", "--dir\n.", "cannot be used with"),
        (
            "mask",
            "--set\nfields=[\"$.a\"]\n--env\nTRANSFORM_CONFIG={\"fields\":[\"$.b\"]}",
            "--set KEY=VALUE",
        ),
        (
            "mask",
            "--set\nfields=[\"$.a\"]\n--env\nA=1\n--env\nA=2",
            "--env A is given twice",
        ),
        ("mask", "--set\nfields=[\"$.a\"]\n--time-ms\n0", "--time-ms"),
        (
            "mask",
            "--set\nfields=[\"$.a\"]\n--memory-mb\n0",
            "--memory-mb",
        ),
        ("mask", "--no-build", "cannot be used with"),
        ("mask", "--set\nfields=$.a", "fields is a list of paths"),
        ("route", "--set\nroutes=a", "routes is a JSON object"),
        (
            "mask",
            "--set\nfields=[\"$.a\"]\n--output\na\n--output\nb",
            "b would get nothing",
        ),
        (
            "validate",
            "--set\nschema=records.jsonl",
            "--set-file schema=records.jsonl",
        ),
    ] {
        let output = test_builtin(&folder, builtin, rest);
        assert!(!output.status.success(), "{builtin} {rest}");
        assert!(said(&output).contains(word), "{rest}: {}", said(&output));
        assert!(output.stdout.is_empty(), "{rest}: nothing was run");
    }
    // What is ready-made has no source that could be watched.
    let watched = transform(&folder.0, &["dev", "--builtin", "mask"]);
    assert!(!watched.status.success());
    assert!(
        said(&watched).contains("transform deploy --builtin mask"),
        "{}",
        said(&watched)
    );
    let without = transform(&folder.0, &["test", "--set", "fields=[]"]);
    assert!(said(&without).contains("--builtin"), "{}", said(&without));
}

#[test]
fn test_of_a_project_says_which_secrets_it_runs_without() {
    let folder = Folder::new();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.0.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("it can be made");
        fs::write(file, bytes).expect("written");
    };
    write(
        "transform.toml",
        b"name = \"m\"\nlanguage = \"rust\"\nsecrets = [\"PEPPER\", \"SALT\", \"SUGAR\"]\n[env]\nSUGAR = \"sweet\"\n",
    );
    write("input.jsonl", b"{}\n");
    write("target/transform/m.wasm", b"no module");
    let note = |more: &[&str]| {
        let arguments = [&["test", "--no-build"], more].concat();
        let said = said(&transform(&folder.0, &arguments));
        let note = said.lines().find(|line| line.starts_with("note: "));
        note.map(str::to_owned)
    };
    assert_eq!(
        note(&[]).as_deref(),
        Some(
            "note: it runs without the secrets PEPPER, SALT; --env PEPPER=VALUE gives it one for this test"
        )
    );
    assert_eq!(
        note(&["--env", "PEPPER=x"]).as_deref(),
        Some("note: it runs without the secret SALT; --env SALT=VALUE gives it one for this test")
    );
    assert_eq!(note(&["--env", "PEPPER=x", "--env", "SALT=y"]), None);
}

//! `courser queue`

use serde_json::json;

use crate::support::broker;

#[test]
fn a_queue_shows_its_options_and_its_figures() {
    let (broker, _folder) = broker();
    let created = broker.json(&[
        "queue",
        "create",
        "orders",
        "--bind",
        "order.*",
        "--bind",
        "payment.#",
        "--lease",
        "1m",
        "--max-attempts",
        "3",
        "--backoff",
        "500ms",
        "--backoff-max",
        "10s",
        "--backoff-multiplier",
        "3",
        "--backoff-jitter",
        "0",
        "--durability",
        "buffered",
    ]);
    assert_eq!(created["created"], true);
    assert_eq!(created["queue"]["name"], "orders");

    let queue = broker.json(&["queue", "show", "orders"]);
    let options = &queue["options"];
    assert_eq!(options["lease"], "60s");
    assert_eq!(options["max_attempts"], 3);
    assert_eq!(options["backoff"]["initial"], "0.5s");
    assert_eq!(options["backoff"]["max"], "10s");
    assert_eq!(options["backoff"]["multiplier"], json!(3.0));
    assert_eq!(options["backoff"]["jitter"], json!(0.0));
    assert_eq!(options["durability"], "DURABILITY_BUFFERED");
    assert_eq!(options["bindings"].as_array().unwrap().len(), 2);
    assert_eq!(queue["dead_letter_queue"], "orders.dlq");
    for figure in ["ready", "leased", "delayed", "dead"] {
        assert_eq!(queue["stats"][figure], 0, "{figure}");
    }
    assert!(
        broker
            .courser(&["queue", "show", "orders"])
            .done()
            .contains("orders.dlq")
    );
}

#[test]
fn a_refusal_names_the_flag_that_was_typed() {
    let (broker, _folder) = broker();
    let refused = |arguments: &[&str]| broker.courser(arguments).failed(1);
    let create = |flags: &[&str]| refused(&[&["queue", "create", "q"], flags].concat());
    let said = create(&["--lease", "1ms"]);
    assert!(said.contains("error: --lease must be from"), "{said}");
    let said = create(&["--max-attempts", "5000"]);
    assert!(said.contains("error: --max-attempts must be"), "{said}");
    let said = create(&["--backoff", "1h", "--backoff-max", "1m"]);
    assert!(
        said.contains("--backoff-max must be from --backoff to"),
        "{said}"
    );
    let said = create(&["--backoff-jitter", "2"]);
    assert!(said.contains("error: --backoff-jitter must be"), "{said}");
    let said = create(&["--bind", "a", "--bind", "a b"]);
    assert!(said.contains("error: --bind "), "{said}");
    broker.courser(&["queue", "create", "q"]).done();
    let said = create(&["--dead-letter", "false", "--max-attempts", "3"]);
    let differences = "--max-attempts is 10, not 3; --dead-letter is true, not false";
    assert!(said.contains(differences), "{said}");
    let said = refused(&["queue", "update", "q", "--lease", "13h"]);
    assert!(said.contains("error: --lease must be from"), "{said}");
    let said = refused(&["consume", "q", "--lease", "13h"]);
    assert!(said.contains("error: --lease must be from"), "{said}");
    let long = "x".repeat(300);
    let said = refused(&["publish", "q", "--content-type", &long]);
    assert!(said.contains("error: --content-type must have"), "{said}");
    let said = refused(&["publish", "q", "x", "--header", &format!("{long}=v")]);
    assert!(said.contains("error: --header: a key must have"), "{said}");
    let said = refused(&["dlq", "redrive", "q", "--reason", &long]);
    assert!(said.contains("error: --reason must have"), "{said}");
}

#[test]
fn one_entry_is_told_as_one() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    let said = broker.courser(&["publish", "q", "a"]).done();
    assert!(said.contains("to 1 queue\n"), "{said}");
    let dead_letter = ["consume", "q", "--count", "1", "--dead-letter", "odd"];
    broker.courser(&dead_letter).done();
    broker.courser(&["publish", "q", "b"]).done();
    let said = broker.courser(&["queue", "delete", "q"]).done();
    assert!(said.contains("1 entry and 1 dead letter went"), "{said}");
}

#[test]
fn creating_again_is_fine_with_the_same_options_only() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    assert_eq!(broker.json(&["queue", "create", "q"])["created"], false);
    let said = broker
        .courser(&["queue", "create", "q", "--lease", "1m"])
        .failed(1);
    assert!(said.contains("lease"), "{said}");
}

#[test]
fn an_update_changes_what_is_named_and_nothing_else() {
    let (broker, _folder) = broker();
    broker
        .courser(&[
            "queue", "create", "q", "--lease", "1m", "--bind", "a.*", "--bind", "b",
        ])
        .done();
    let update = [
        "queue",
        "update",
        "q",
        "--max-attempts",
        "5",
        "--bind",
        "c",
        "--unbind",
        "b",
    ];
    let queue = broker.json(&update);
    assert_eq!(queue["options"]["max_attempts"], 5);
    assert_eq!(queue["options"]["lease"], "60s");
    assert_eq!(
        queue["options"]["bindings"],
        json!([{ "pattern": "a.*" }, { "pattern": "c" }])
    );
    let queue = broker.json(&["queue", "update", "q", "--clear-bindings"]);
    assert_eq!(queue["options"]["bindings"], json!([]));
    broker.courser(&["queue", "update", "q"]).failed(2);
    let said = broker
        .courser(&["queue", "update", "q", "--unbind", "a.*"])
        .failed(1);
    assert!(said.contains("no binding \"a.*\""), "{said}");
}

#[test]
fn creating_again_tells_when_the_queue_is_paused_after_all() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    let again = broker.courser(&["queue", "create", "q", "--paused"]).done();
    assert!(again.contains("is not paused"), "{again}");
    broker.courser(&["queue", "pause", "q"]).done();
    let again = broker.courser(&["queue", "create", "q"]).done();
    assert!(again.contains("is paused"), "{again}");
}

#[test]
fn a_name_too_long_for_its_dead_letters_is_refused_with_the_length() {
    let (broker, _folder) = broker();
    let said = broker
        .courser(&["queue", "create", &"q".repeat(252)])
        .failed(1);
    assert!(said.contains("at most 251 bytes"), "{said}");
    broker
        .courser(&["queue", "create", &"q".repeat(251)])
        .done();
}

#[test]
fn peek_says_when_a_payload_is_no_text() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker
        .courser_with(&[0xff, 0x00], &["publish", "q", "-"])
        .done();
    let table = broker.courser(&["queue", "peek", "q"]).done();
    assert!(table.contains("base64: /wA="), "{table}");
}

#[test]
fn lists_purges_pauses_and_deletes() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "a"]).done();
    broker.courser(&["queue", "create", "b"]).done();
    let listed = broker.json(&["queue", "list"]);
    let names: Vec<_> = listed["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|q| &q["name"])
        .collect();
    assert_eq!(names, ["a", "a.dlq", "b", "b.dlq"]);
    assert_eq!(
        broker
            .courser(&["queue", "list", "b", "--output", "ndjson"])
            .json_lines()
            .len(),
        2
    );
    assert!(broker.courser(&["queue", "list"]).done().contains("READY"));

    broker
        .courser(&["publish", "a", "x", "--count", "3"])
        .done();
    assert_eq!(
        broker.json(&["queue", "purge", "a", "--limit", "1"])["purged"],
        1
    );
    assert_eq!(
        broker.json(&["queue", "pause", "a"])["options"]["paused"],
        true
    );
    assert_eq!(broker.courser(&["consume", "a", "--wait", "0"]).done(), "");
    assert_eq!(
        broker.json(&["queue", "resume", "a"])["options"]["paused"],
        false
    );
    broker
        .courser(&["queue", "delete", "a", "--if-empty"])
        .failed(1);
    assert_eq!(broker.json(&["queue", "delete", "a"])["entries"], 2);
    let said = broker.courser(&["queue", "show", "a"]).failed(1);
    assert!(said.contains("courser queue list"), "{said}");
}

#[test]
fn peek_shows_entries_and_changes_nothing() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker
        .courser_with(b"one\ntwo\nthree\n", &["publish", "q", "--lines"])
        .done();
    let entries = broker.json(&["queue", "peek", "q", "--limit", "2"]);
    let entries = entries["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["state"], "ENTRY_STATE_READY");
    assert_eq!(entries[0]["message"]["payload"], "one");
    let after = entries[1]["entry_id"].to_string();
    let rest = broker.json(&["queue", "peek", "q", "--after", &after]);
    assert_eq!(rest["entries"][0]["message"]["payload"], "three");
    assert_eq!(broker.stat("q", "ready"), 3);
}

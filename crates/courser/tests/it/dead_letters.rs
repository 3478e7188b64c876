//! `courser dlq`

use crate::support::{Broker, broker};

fn dead_letters(broker: &Broker, count: usize) {
    broker.courser(&["queue", "create", "q"]).done();
    broker
        .courser(&["publish", "q", "x", "--count", &count.to_string()])
        .done();
    let count = count.to_string();
    let give_up = ["--dead-letter", "invalid", "--error", "no such customer"];
    broker
        .courser(&[&["consume", "q", "--count", &count][..], &give_up].concat())
        .done();
}

#[test]
fn dead_letters_show_why_they_are_there() {
    let (broker, _folder) = broker();
    dead_letters(&broker, 2);
    assert_eq!(broker.stat("q", "dead"), 2);
    let listed = broker.json(&["dlq", "list"]);
    assert_eq!(listed["queues"].as_array().unwrap().len(), 1);
    assert_eq!(listed["queues"][0]["name"], "q.dlq");
    for name in ["q", "q.dlq"] {
        let entries = broker.json(&["dlq", "show", name]);
        assert_eq!(entries["entries"][0]["dead_letter"]["reason"], "invalid");
        assert_eq!(entries["entries"][0]["dead_letter"]["queue"], "q");
        assert_eq!(entries["entries"].as_array().unwrap().len(), 2);
    }
    let table = broker.courser(&["dlq", "show", "q"]).done();
    assert!(
        table.contains("invalid") && table.contains("no such customer"),
        "{table}"
    );
}

#[test]
fn the_last_failed_attempt_makes_a_dead_letter() {
    let (broker, _folder) = broker();
    broker
        .courser(&[
            "queue",
            "create",
            "q",
            "--max-attempts",
            "2",
            "--backoff",
            "0",
        ])
        .done();
    broker.courser(&["publish", "q", "x"]).done();
    broker
        .courser(&["consume", "q", "--count", "2", "--nack", "--error", "boom"])
        .done();
    let entries = broker.json(&["dlq", "show", "q"]);
    let entry = &entries["entries"][0];
    assert_eq!(entry["dead_letter"]["reason"], "max_attempts");
    assert_eq!(entry["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(entry["attempts"][1]["error"], "boom");
}

#[test]
fn a_redrive_brings_them_back_in_steps() {
    let (broker, _folder) = broker();
    dead_letters(&broker, 25);
    assert_eq!(
        broker.json(&["dlq", "redrive", "q", "--dry-run"])["redriven"],
        25
    );
    assert_eq!(
        broker.json(&["dlq", "redrive", "q", "--reason", "other"])["redriven"],
        0
    );
    assert_eq!(
        broker.json(&["dlq", "redrive", "q", "--limit", "3"])["redriven"],
        3
    );
    // 10 a step, so this takes three of them.
    let rest = broker.json(&["dlq", "redrive", "q.dlq", "--rate", "100"]);
    assert_eq!(rest["redriven"], 22);
    assert_eq!(
        (broker.stat("q", "ready"), broker.stat("q", "dead")),
        (25, 0)
    );
    assert_eq!(broker.json(&["consume", "q", "--count", "1"])["attempt"], 1);
}

#[test]
fn single_entries_are_redriven_elsewhere_and_the_rest_purged() {
    let (broker, _folder) = broker();
    dead_letters(&broker, 3);
    broker.courser(&["queue", "create", "other"]).done();
    let entries = broker.json(&["dlq", "show", "q"]);
    let entry = entries["entries"][1]["entry_id"].to_string();
    let redrive = [
        "dlq", "redrive", "q", "--entry", &entry, "--to", "other", "--rate", "0",
    ];
    assert_eq!(broker.json(&redrive)["redriven"], 1);
    assert_eq!(broker.stat("other", "ready"), 1);
    assert_eq!(broker.json(&["dlq", "purge", "q"])["purged"], 2);
    broker
        .courser(&["dlq", "redrive", "q", "--to", "nowhere"])
        .failed(1);
}

//! `courser publish` and `courser consume`

use serde_json::json;

use crate::support::{Broker, broker};

fn publish_two(broker: &Broker) {
    broker
        .courser(&[
            "queue",
            "create",
            "q",
            "--backoff",
            "0",
            "--backoff-jitter",
            "0",
        ])
        .done();
    broker
        .courser_with(b"one\ntwo\n", &["publish", "q", "--lines"])
        .done();
}

#[test]
fn a_message_arrives_with_all_that_was_said_of_it() {
    let (broker, _folder) = broker();
    broker
        .courser(&["queue", "create", "q", "--bind", "order.*"])
        .done();
    let published = broker.json(&[
        "publish",
        "order.created",
        "{}",
        "--header",
        "a=1",
        "--header",
        "b=x=y",
        "--id",
        "m-1",
        "--type",
        "created",
        "--source",
        "shop",
        "--content-type",
        "application/json",
        "--schema-version",
        "2",
        "--correlation-id",
        "s-1",
        "--causation-id",
        "m-0",
    ]);
    assert_eq!(published["results"][0]["id"], "m-1");
    assert_eq!(published["results"][0]["queues"], 1);

    let delivery = broker.json(&["consume", "q", "--count", "1"]);
    assert_eq!(delivery["attempt"], 1);
    let message = &delivery["message"];
    assert_eq!(message["id"], "m-1");
    assert_eq!(message["topic"], "order.created");
    assert_eq!(message["payload"], "{}");
    assert_eq!(message["headers"], json!({ "a": "1", "b": "x=y" }));
    assert_eq!(message["type"], "created");
    assert_eq!(message["correlation_id"], "s-1");
    assert_eq!(message["position"], published["results"][0]["position"]);
}

#[test]
fn a_payload_can_be_anything() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker
        .courser_with(&[0xff, b'\n', 0], &["publish", "q", "-"])
        .done();
    broker.courser(&["publish", "q"]).done();
    let deliveries = broker.courser(&["consume", "q", "--count", "2", "--output", "ndjson"]);
    let deliveries = deliveries.json_lines();
    assert_eq!(deliveries[0]["message"]["payload_base64"], "/woA");
    assert_eq!(deliveries[1]["message"]["payload"], "");
}

#[test]
fn a_message_that_reaches_nobody_is_told_or_refused() {
    let (broker, _folder) = broker();
    let said = broker.courser(&["publish", "nowhere", "x"]).done();
    assert!(said.contains("reached no queue"), "{said}");
    broker
        .courser(&["publish", "nowhere", "x", "--mandatory"])
        .failed(1);
    broker.courser(&["publish", "not a topic", "x"]).failed(1);
}

#[test]
fn many_messages_come_in_order() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    let lines: String = (0..1_000).map(|line| format!("{line}\n")).collect();
    let published =
        broker.courser_with(lines.as_bytes(), &["publish", "q", "--lines", "--buffered"]);
    assert!(published.done().contains("1,000 messages"));
    let consumed = broker.courser(&["consume", "q", "--count", "1000"]).done();
    assert_eq!(consumed, lines);
    assert_eq!(broker.stat("q", "acked_total"), 1_000);
}

#[test]
fn consume_takes_no_more_than_it_is_told() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    assert_eq!(
        broker
            .courser(&["consume", "q", "--count", "1", "--ack"])
            .done(),
        "one\n"
    );
    assert_eq!(broker.stat("q", "ready"), 1);
    assert_eq!(broker.json(&["consume", "q", "--count", "1"])["attempt"], 1);
}

#[test]
fn consume_ends_after_its_wait_with_what_it_got() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    assert_eq!(
        broker.courser(&["consume", "q", "--wait", "0"]).done(),
        "one\ntwo\n"
    );
    assert_eq!(
        broker.courser(&["consume", "q", "--wait", "10ms"]).done(),
        ""
    );
}

#[test]
fn a_nacked_message_comes_again_as_the_next_attempt() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    let nack = [
        "consume",
        "q",
        "--count",
        "1",
        "--nack",
        "--retry-after",
        "0",
        "--error",
        "no",
    ];
    assert_eq!(broker.json(&nack)["attempt"], 1);
    let deliveries = broker.courser(&["consume", "q", "--count", "2", "--output", "ndjson"]);
    let mut attempts: Vec<_> = deliveries
        .json_lines()
        .iter()
        .map(|delivery| delivery["attempt"].as_u64())
        .collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [Some(1), Some(2)]);
}

#[test]
fn a_released_message_comes_again_without_blame() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    let released = broker
        .courser(&["consume", "q", "--release", "--wait", "0"])
        .done();
    assert_eq!(released, "one\ntwo\n");
    assert_eq!(broker.json(&["consume", "q", "--count", "1"])["attempt"], 1);
}

#[test]
fn a_queue_that_is_not_there_is_told() {
    let (broker, _folder) = broker();
    broker.courser(&["consume", "nowhere"]).failed(1);
    broker
        .courser(&["consume", "q", "--follow", "--wait", "1s"])
        .failed(2);
}

#[test]
fn a_payload_that_is_too_large_is_refused_with_its_size() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    for bytes in [5_000_000, 65 * 1024 * 1024] {
        let said = broker
            .courser_with(&vec![b'x'; bytes], &["publish", "q", "-"])
            .failed(1);
        assert!(said.contains(&bytes.to_string()), "{said}");
    }
}

#[test]
fn a_consume_that_is_killed_gives_back_what_it_held_at_once() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    let mut held = broker.spawn(&["consume", "q", "--release", "--wait", "1h"]);
    assert_eq!([held.line(), held.line()], ["one", "two"]);
    assert_eq!(broker.stat("q", "leased"), 2);
    held.signal("-KILL");
    assert_ne!(held.ended(), 0);
    // Its leases would last 30 s; this waits 5 s for each.
    let again = broker.courser(&["consume", "q", "--count", "2", "--output", "ndjson"]);
    let attempts: Vec<_> = again
        .json_lines()
        .iter()
        .map(|d| d["attempt"].clone())
        .collect();
    assert_eq!(attempts, [2, 2]);
}

#[test]
fn what_would_be_refused_of_a_settlement_takes_no_message() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    let wrong = [
        (vec!["--error", "x"], "--nack"),
        (vec!["--ack", "--error", "x"], "--nack"),
        (vec!["--nack", "--retry-after", "25h"], "24h"),
        (vec!["--dead-letter", ""], "1 to 64 bytes"),
    ];
    for (flags, expected) in wrong {
        let said = broker
            .courser(&[&["consume", "q", "--count", "1"][..], &flags].concat())
            .failed(2);
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    let said = broker
        .courser(&["consume", "q.dlq", "--count", "1", "--dead-letter", "bad"])
        .failed(1);
    assert!(said.contains("no dead-letter queue"), "{said}");
    let stat = |name| broker.stat("q", name);
    assert_eq!((stat("ready"), stat("delivered_total")), (2, 0));
}

#[test]
fn consume_says_when_the_queue_is_paused() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    broker.courser(&["queue", "pause", "q"]).done();
    let ended = broker.courser(&["consume", "q", "--wait", "10ms"]);
    let (said, printed) = (ended.stderr.clone(), ended.done());
    assert_eq!(printed, "");
    assert!(said.contains("paused"), "{said}");
    assert!(said.contains("courser queue resume q"), "{said}");
    assert_eq!(broker.stat("q", "ready"), 2);
}

#[test]
fn a_count_leaves_the_rest_untouched() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker
        .courser(&["publish", "q", "x", "--count", "300"])
        .done();
    broker.courser(&["consume", "q", "--count", "150"]).done();
    let stats = |name| broker.stat("q", name);
    assert_eq!(
        (stats("ready"), stats("leased"), stats("delivered_total")),
        (150, 0, 150)
    );
}

#[test]
fn without_a_wait_everything_that_is_there_comes() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker
        .courser(&["publish", "q", "x", "--count", "300"])
        .done();
    let printed = broker.courser(&["consume", "q", "--wait", "0"]).done();
    assert_eq!(printed.lines().count(), 300);
    assert_eq!(
        (broker.stat("q", "ready"), broker.stat("q", "leased")),
        (0, 0)
    );
}

#[test]
fn follow_ends_on_an_interrupt_with_everything_settled() {
    let (broker, _folder) = broker();
    publish_two(&broker);
    let mut follow = broker.spawn(&["consume", "q", "--follow"]);
    assert_eq!([follow.line(), follow.line()], ["one", "two"]);
    follow.signal("-INT");
    assert_eq!(follow.ended(), 0);
    assert_eq!(
        (broker.stat("q", "leased"), broker.stat("q", "ready")),
        (0, 0)
    );
}

#[test]
fn what_is_held_until_the_end_is_held_longer_than_its_lease() {
    let (broker, _folder) = broker();
    let create = ["queue", "create", "q", "--lease", "2s", "--backoff", "0"];
    broker.courser(&create).done();
    broker.courser(&["publish", "q", "one"]).done();
    let held = ["consume", "q", "--release", "--wait", "3s"];
    assert_eq!(broker.courser(&held).done(), "one\n");
    assert_eq!(
        (broker.stat("q", "expired_total"), broker.stat("q", "ready")),
        (0, 1)
    );
}

#[test]
fn a_line_that_is_refused_is_named_and_takes_no_other_along() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    let large = "x".repeat(5_000_000);
    let lines: String = (1..=500)
        .map(|line| match line {
            321 | 400 => format!("{large}\n"),
            line => format!("{line}\n"),
        })
        .collect();
    let ended = broker.courser_with(lines.as_bytes(), &["publish", "q", "--lines"]);
    let said = ended.stderr.clone();
    assert_eq!(ended.code, 1, "{said}");
    assert!(said.contains("line 321 was refused"), "{said}");
    assert!(said.contains("must have at most 4194304 bytes"), "{said}");
    // It says of how many lines it has read, and all of these are there, but for the bad ones.
    let words: Vec<u64> = said
        .split_whitespace()
        .filter_map(|word| word.replace(',', "").parse().ok())
        .collect();
    let (published, read) = (words[0], words[1]);
    assert!((321..=500).contains(&read), "{said}");
    assert_eq!(published, read - 1 - u64::from(read >= 400), "{said}");
    assert!(
        ended
            .stdout
            .contains(&format!("published {published} messages"))
    );
    let consumed = broker.courser(&["consume", "q", "--wait", "0"]).done();
    let mut consumed: Vec<u64> = consumed.lines().map(|line| line.parse().unwrap()).collect();
    consumed.sort_unstable();
    let expected: Vec<_> = (1..=read)
        .filter(|line| ![321, 400].contains(line))
        .collect();
    assert_eq!(consumed, expected);
}

#[test]
fn a_message_that_is_refused_is_not_published_again_and_again() {
    let (broker, _folder) = broker();
    let publish = ["publish", "nowhere", "x", "--mandatory", "--count", "5000"];
    let said = broker.courser(&publish).failed(1);
    assert!(said.contains("0 of "), "{said}");
    assert!(said.contains("message 1 was refused"), "{said}");
    assert!(said.contains("would reach no queue"), "{said}");
}

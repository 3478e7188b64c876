//! `courser bench`

use crate::support::broker;

#[test]
fn everything_published_is_received_once() {
    let (broker, _folder) = broker();
    let report = broker.json(&["bench", "--count", "5000", "--size", "100"]);
    assert_eq!(report["published"], 5_000);
    assert_eq!(report["received"], 5_000);
    for figure in ["missing", "duplicates", "unsettled", "foreign"] {
        assert_eq!(report[figure], 0, "{figure}: {report:#}");
    }
    assert!(report["confirm_milliseconds"]["p50"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (
            broker.stat("bench", "ready"),
            broker.stat("bench", "leased")
        ),
        (0, 0)
    );
}

#[test]
fn publishing_and_consuming_can_be_measured_apart() {
    let (broker, _folder) = broker();
    let load = [
        "--count",
        "500",
        "--size",
        "16",
        "--one-connection",
        "--threads",
        "1",
    ];
    let publish = broker.json(&[&["bench", "--publish-only"][..], &load].concat());
    assert_eq!(publish["published"], 500);
    assert_eq!(broker.stat("bench", "ready"), 500);
    let consume = broker.json(&[&["bench", "--consume-only"][..], &load].concat());
    assert_eq!(consume["received"], 500);
    assert_eq!(broker.stat("bench", "ready"), 0);
}

#[test]
fn a_consume_of_so_many_takes_these_and_no_more() {
    let (broker, _folder) = broker();
    let publish = ["bench", "--publish-only", "--count", "1000", "--size", "16"];
    broker.json(&publish);
    for (consumers, count, left) in [("4", "10", 990), ("8", "3", 987), ("3", "500", 487)] {
        let consume = ["bench", "--consume-only", "--consumers", consumers];
        let report = broker.json(&[&consume[..], &["--count", count]].concat());
        assert_eq!(report["received"].to_string(), count);
        assert_eq!(broker.stat("bench", "ready"), left);
        assert_eq!(broker.stat("bench", "leased"), 0);
    }
    assert_eq!(
        broker.stat("bench", "delivered_total"),
        513,
        "no other was touched"
    );
}

#[test]
fn a_consume_that_does_not_find_so_many_says_so() {
    let (broker, _folder) = broker();
    let said = broker.courser(&["bench", "--consume-only"]).failed(1);
    assert!(said.contains("\"bench\" had no message to give"), "{said}");
    broker
        .courser(&["publish", "bench", "not one of a bench"])
        .done();
    let consume = ["bench", "--consume-only", "--count", "3"];
    let said = broker.courser(&consume).failed(1);
    assert!(said.contains("had only 1 of 3 messages to give"), "{said}");
}

#[test]
fn large_messages_are_batched_to_fit_a_request() {
    let (broker, _folder) = broker();
    let report = broker.json(&["bench", "--count", "10", "--size", "4000000"]);
    assert_eq!(report["received"], 10);
    let said = broker
        .courser(&["bench", "--count", "10", "--size", "5000000"])
        .failed(1);
    assert!(said.contains("payload must have at most"), "{said}");
    broker.courser(&["bench", "--size", "100000000"]).failed(2);
}

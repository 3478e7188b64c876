//! How queues are consumed.

use super::*;

fn open() -> v1::Open {
    v1::Open {
        queue: "orders".to_owned(),
        ..v1::Open::default()
    }
}

#[test]
fn an_opening_has_defaults_and_limits() {
    let opened = open_from_proto(open()).unwrap();
    assert_eq!(opened.max_messages, CREDIT_MESSAGES_DEFAULT);
    assert_eq!(opened.max_bytes, CREDIT_BYTES_DEFAULT);
    assert_eq!(opened.lease, None);
    let field = |open| open_from_proto(open).map_err(|error| error.field);
    assert!(
        field(v1::Open {
            max_messages: 10_000,
            ..open()
        })
        .is_ok()
    );
    assert_eq!(
        field(v1::Open {
            max_messages: 10_001,
            ..open()
        })
        .unwrap_err(),
        "max_messages"
    );
    assert!(
        field(v1::Open {
            max_bytes: CREDIT_BYTES_MAX,
            ..open()
        })
        .is_ok()
    );
    let max_bytes = CREDIT_BYTES_MAX + 1;
    assert_eq!(
        field(v1::Open {
            max_bytes,
            ..open()
        })
        .unwrap_err(),
        "max_bytes"
    );
    assert!(
        field(v1::Open {
            consumer: "c".repeat(256),
            ..open()
        })
        .is_ok()
    );
    assert_eq!(
        field(v1::Open {
            consumer: "c".repeat(257),
            ..open()
        })
        .unwrap_err(),
        "consumer"
    );
    for (lease, allowed) in [(0, false), (1, true), (43_200, true), (43_201, false)] {
        assert_eq!(
            field(v1::Open {
                lease: seconds(lease),
                ..open()
            })
            .is_ok(),
            allowed,
            "{lease}"
        );
    }
}

#[test]
fn a_pull_has_defaults_and_limits() {
    let pull = || v1::PullRequest {
        queue: "orders".to_owned(),
        ..v1::PullRequest::default()
    };
    let (opened, wait) = pull_from_proto(pull()).unwrap();
    assert_eq!(
        (opened.max_messages, wait),
        (limits::PULL_MESSAGES_DEFAULT, Duration::ZERO)
    );
    assert_eq!(opened.max_bytes, limits::PULL_BYTES_MAX);
    let field = |pull| pull_from_proto(pull).map_err(|error| error.field);
    assert!(
        field(v1::PullRequest {
            max_messages: 1_000,
            ..pull()
        })
        .is_ok()
    );
    let error = field(v1::PullRequest {
        max_messages: 1_001,
        ..pull()
    });
    assert_eq!(error.unwrap_err(), "max_messages");
    assert!(
        field(v1::PullRequest {
            wait: seconds(60),
            ..pull()
        })
        .is_ok()
    );
    assert_eq!(
        field(v1::PullRequest {
            wait: seconds(61),
            ..pull()
        })
        .unwrap_err(),
        "wait"
    );
}

#[test]
fn every_verdict_is_settled_in_order() {
    let settle = v1::Settle {
        ack: vec![5, 1],
        nack: vec![v1::Nack {
            lease_id: 2,
            retry_after: seconds(3),
            error: "é".repeat(300),
        }],
        release: vec![7],
        dead_letter: vec![v1::Reject {
            lease_id: 3,
            reason: "bad".to_owned(),
            description: String::new(),
        }],
        extend: vec![v1::Extend {
            lease_id: 4,
            by: seconds(30),
        }],
        without_results: true,
    };
    let (settlements, invalid) = settlements_from_proto(settle).unwrap();
    assert!(invalid.is_empty());
    let ids: Vec<_> = settlements.iter().map(|s| s.lease_id.0).collect();
    assert_eq!(ids, [5, 1, 2, 7, 3, 4]);
    let Verdict::Nack(nack) = &settlements[2].verdict else {
        panic!("{:?} is no nack", settlements[2]);
    };
    assert_eq!(nack.retry_after, Some(Duration::from_secs(3)));
    assert_eq!(nack.error.len(), ERROR_BYTES_KEPT);
    assert_eq!(
        settlements[5].verdict,
        Verdict::Extend(Duration::from_secs(30))
    );
}

#[test]
fn a_settle_has_its_limits() {
    let refused = |settle| settlements_from_proto(settle).unwrap_err().to_string();
    let ack = |ack| v1::Settle {
        ack,
        ..v1::Settle::default()
    };
    assert!(settlements_from_proto(ack((1..=10_000).collect())).is_ok());
    assert_eq!(
        refused(ack((1..=10_001).collect())),
        "settle must have at most 10000 lease ids, has 10001"
    );
    assert_eq!(
        refused(v1::Settle {
            release: vec![4],
            ..ack(vec![9, 4, 1])
        }),
        "settle must name a lease once, names 4 more than once"
    );
    // Also one that would be refused by itself.
    let extend = vec![v1::Extend {
        lease_id: 9,
        by: None,
    }];
    assert_eq!(
        refused(v1::Settle {
            extend,
            ..ack(vec![9])
        }),
        "settle must name a lease once, names 9 more than once"
    );
}

/// Why the only settlement is refused; none when it is not.
fn invalid(settle: v1::Settle) -> Option<String> {
    let (settlements, invalid) = settlements_from_proto(settle).unwrap();
    assert_eq!(settlements.len() + invalid.len(), 1);
    let (lease_id, sentence) = invalid.into_iter().next()?;
    assert_eq!(lease_id.0, 1);
    Some(sentence.into_string())
}

#[test]
fn a_field_of_a_settlement_refuses_that_settlement() {
    let reject = |reason: &str| v1::Settle {
        dead_letter: vec![v1::Reject {
            lease_id: 1,
            reason: reason.to_owned(),
            ..Default::default()
        }],
        ..v1::Settle::default()
    };
    let empty = invalid(reject("")).unwrap();
    assert_eq!(empty, "settle.dead_letter[0].reason must not be empty");
    assert_eq!(invalid(reject(&"r".repeat(64))), None);
    let long = invalid(reject(&"r".repeat(65))).unwrap();
    assert!(long.starts_with("settle.dead_letter[0].reason"), "{long}");
    let nack = |wait| v1::Settle {
        nack: vec![v1::Nack {
            lease_id: 1,
            retry_after: seconds(wait),
            ..Default::default()
        }],
        ..v1::Settle::default()
    };
    assert_eq!(invalid(nack(86_400)), None);
    let long = invalid(nack(86_401)).unwrap();
    assert!(long.starts_with("settle.nack[0].retry_after"), "{long}");
    assert!(invalid(nack(-1)).is_some());
    let extend = |by| v1::Settle {
        extend: vec![v1::Extend { lease_id: 1, by }],
        ..v1::Settle::default()
    };
    assert_eq!(invalid(extend(seconds(1))), None);
    assert_eq!(invalid(extend(seconds(43_200))), None);
    for by in [None, seconds(0), seconds(43_201)] {
        let sentence = invalid(extend(by)).unwrap();
        assert!(sentence.starts_with("settle.extend[0].by"), "{sentence}");
    }
}

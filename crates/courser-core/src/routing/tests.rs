use super::*;
use crate::random::Random;

fn routing(patterns: &[&str]) -> Routing {
    let mut routing = Routing::default();
    for (id, pattern) in patterns.iter().enumerate() {
        routing.bind(
            &Pattern::new(pattern).unwrap(),
            QueueId(u32::try_from(id).unwrap()),
        );
    }
    routing
}

#[track_caller]
fn check(pattern: &str, matching: &[&str], others: &[&str]) {
    let mut routing = routing(&[pattern]);
    for topic in matching {
        assert_eq!(
            routing.route(topic).len(),
            1,
            "{pattern} must match {topic}"
        );
    }
    for topic in others {
        assert_eq!(
            routing.route(topic).len(),
            0,
            "{pattern} must not match {topic}"
        );
    }
}

#[test]
fn a_star_is_one_token_and_a_hash_is_any_number() {
    check(
        "order.created",
        &["order.created"],
        &["order", "order.created.eu", "orders.created"],
    );
    check(
        "order.*",
        &["order.created", "order.paid"],
        &["order", "order.created.eu"],
    );
    check("*.created", &["order.created"], &["created", "a.b.created"]);
    check(
        "order.#",
        &["order", "order.created", "order.created.eu"],
        &["orders", "a.order"],
    );
    check("#", &["a", "a.b", "a.b.c.d.e"], &[]);
    check(
        "#.eu",
        &["eu", "order.eu", "order.created.eu"],
        &["eu.order"],
    );
    check(
        "a.#.z",
        &["a.z", "a.b.z", "a.b.c.z", "a.z.z"],
        &["a", "z", "a.z.b"],
    );
    check("#.#", &["a", "a.b"], &[]);
    check("#.a.#.b.#", &["a.b", "x.a.y.b.z", "a.a.b.b"], &["b.a", "a"]);
    check("*.#", &["a", "a.b"], &[]);
}

#[test]
fn a_queue_with_several_matching_bindings_gets_a_topic_once() {
    let mut routing = Routing::default();
    for pattern in ["a.*", "a.#", "a.b", "#"] {
        routing.bind(&Pattern::new(pattern).unwrap(), QueueId(7));
    }
    assert_eq!(*routing.route("a.b"), [QueueId(7)]);
    routing.unbind(&Pattern::new("#").unwrap(), QueueId(7));
    assert_eq!(*routing.route("a.b"), [QueueId(7)]);
    assert!(routing.route("c").is_empty());
}

#[test]
fn bindings_that_end_leave_nothing_behind() {
    let mut routing = Routing::default();
    for round in 0..5_000_u32 {
        let pattern = Pattern::new(&format!("round.{round}.*")).unwrap();
        routing.bind(&pattern, QueueId(round));
        routing.unbind(&pattern, QueueId(round));
    }
    assert!(
        routing.nodes.len() < 5_000,
        "{} nodes are left",
        routing.nodes.len()
    );
    assert!(routing.route("round.1.x").is_empty());
}

/// What a pattern matches, said plainly.
fn plain_match(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        ([], []) => true,
        (["#", rest @ ..], _) => {
            plain_match(rest, topic) || (!topic.is_empty() && plain_match(pattern, &topic[1..]))
        }
        (["*", rest @ ..], [_, topic @ ..]) => plain_match(rest, topic),
        ([token, rest @ ..], [first, topic @ ..]) => token == first && plain_match(rest, topic),
        _ => false,
    }
}

#[test]
fn random_patterns_match_as_said_plainly() {
    let mut random = Random::new(7);
    let mut word =
        |choices: &[&'static str]| choices[(random.next_u64() % choices.len() as u64) as usize];
    for _ in 0..300 {
        let patterns: Vec<String> = (0..20)
            .map(|_| {
                (0..4)
                    .map(|_| word(&["a", "b", "*", "#", ""]))
                    .filter(|t| !t.is_empty())
                    .collect::<Vec<_>>()
                    .join(".")
            })
            .filter(|pattern| !pattern.is_empty())
            .collect();
        let mut routing = routing(&patterns.iter().map(String::as_str).collect::<Vec<_>>());
        let topic: Vec<_> = (0..4).map(|_| word(&["a", "b", "c"])).collect();
        let expected: Vec<_> = (0..patterns.len())
            .filter(|i| plain_match(&patterns[*i].split('.').collect::<Vec<_>>(), &topic))
            .map(|i| QueueId(u32::try_from(i).unwrap()))
            .collect();
        assert_eq!(
            *routing.route(&topic.join(".")),
            *expected,
            "{patterns:?} for {topic:?}"
        );
    }
}

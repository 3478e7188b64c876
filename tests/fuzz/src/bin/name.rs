//! Names, patterns and routes, each beside the plainest code that says the same.
#![no_main]

use std::collections::BTreeSet;

use courser_core::{
    fuzz::Routes,
    id::QueueId,
    name::{Pattern, check_name},
};
use courser_fuzz::Input;
use libfuzzer_sys::fuzz_target;

const NAME_BYTES_MAX: usize = 255;

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    if kind % 4 == 0 {
        if let Ok(text) = std::str::from_utf8(bytes) {
            check(text);
        }
    } else {
        routes(Input(bytes));
    }
});

/// By the rules as they are documented.
fn check(text: &str) {
    let whole = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.starts_with('$');
    let may_be_in_a_token = |c: char| !c.is_whitespace() && !c.is_control() && c != '*' && c != '#';
    let is_token = |token: &str| !token.is_empty() && token.chars().all(may_be_in_a_token);
    let is_name = whole && text.split('.').all(is_token);
    let is_wildcard = |token: &str| token == "*" || token == "#";
    let is_pattern = whole
        && text
            .split('.')
            .all(|token| is_token(token) || is_wildcard(token));
    assert_eq!(check_name(text).is_ok(), is_name, "{text:?}");
    let pattern = Pattern::new(text);
    assert_eq!(pattern.is_ok(), is_pattern, "{text:?}");
    if let Ok(pattern) = pattern {
        assert_eq!(pattern.as_str(), text);
        assert_eq!(pattern.tokens().collect::<Vec<_>>().join("."), text);
    }
}

/// Binds, unbinds and routes, a few tokens in many places.
fn routes(mut input: Input<'_>) {
    let mut routes = Routes::default();
    let mut bindings: BTreeSet<(String, u32)> = BTreeSet::new();
    let mut steps = 0;
    while !input.is_empty() && steps < 200 {
        steps += 1;
        let step = input.byte();
        let queue = u32::from(step >> 5);
        match step % 4 {
            0 | 1 => {
                let text = tokens(&mut input, &["a", "b", "c", "*", "#", "#"]);
                let pattern = Pattern::new(&text).expect("it is made of tokens");
                routes.bind(&pattern, QueueId(queue));
                bindings.insert((text, queue));
            }
            2 => {
                let at = usize::from(input.byte());
                let Some(binding) = bindings.iter().nth(at % (bindings.len() + 1)).cloned() else {
                    continue;
                };
                let pattern = Pattern::new(&binding.0).expect("it was bound");
                routes.unbind(&pattern, QueueId(binding.1));
                bindings.remove(&binding);
            }
            _ => {
                let topic = tokens(&mut input, &["a", "b", "c", "d"]);
                let found: Vec<u32> = routes.route(&topic).iter().map(|queue| queue.0).collect();
                let matching = bindings
                    .iter()
                    .filter(|(pattern, _)| matches(pattern, &topic));
                let expected: BTreeSet<u32> = matching.map(|(_, queue)| *queue).collect();
                assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{topic}");
            }
        }
    }
}

fn tokens(input: &mut Input<'_>, of: &[&str]) -> String {
    let count = 1 + input.byte() % 8;
    let tokens = (0..count).map(|_| of[usize::from(input.byte()) % of.len()]);
    tokens.collect::<Vec<_>>().join(".")
}

/// Token by token: row by row of what matches so far.
fn matches(pattern: &str, topic: &str) -> bool {
    let topic: Vec<&str> = topic.split('.').collect();
    let mut row = vec![false; topic.len() + 1];
    row[0] = true;
    for token in pattern.split('.') {
        let mut next = vec![false; topic.len() + 1];
        for at in 0..=topic.len() {
            next[at] = match token {
                "#" => row[at] || at > 0 && next[at - 1],
                "*" => at > 0 && row[at - 1],
                _ => at > 0 && row[at - 1] && topic[at - 1] == token,
            };
        }
        row = next;
    }
    row[topic.len()]
}

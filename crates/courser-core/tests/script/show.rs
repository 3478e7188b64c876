//! What commands answer, as scripts write it.

use std::collections::BTreeSet;

use courser_core::{
    broker::HandOver,
    id::{ConsumerId, Seq},
    record::{Attempt, Note},
    stats::{EntryState, EntryView, Peek, QueueView, StateFilter},
};

use crate::{
    check::{list, moment, span},
    world::World,
};

/// `alice: a(1), b(1); bob: c(2)`.
pub(crate) fn handed(world: &World, handed: &[HandOver]) -> String {
    let mut by_consumer: Vec<(&str, Vec<(String, String)>)> = Vec::new();
    for hand_over in handed {
        let consumer = world.name_of(hand_over.consumer);
        let name = world.names[&hand_over.position].clone();
        let item = (name, format!("({})", hand_over.attempt));
        match by_consumer.iter_mut().find(|(of, _)| *of == consumer) {
            Some((_, items)) => items.push(item),
            None => by_consumer.push((consumer, vec![item])),
        }
    }
    let lines: Vec<_> = by_consumer
        .iter()
        .map(|(consumer, items)| format!("{consumer}: {}", list(items)))
        .collect();
    if lines.is_empty() {
        "nothing".to_owned()
    } else {
        lines.join("; ")
    }
}

/// `a ready, b delayed 5s, c leased alice 30s`.
pub(crate) fn entries(world: &World, views: &[EntryView]) -> String {
    let items: Vec<_> = views
        .iter()
        .map(|view| {
            let state = match &view.state {
                EntryState::Ready => " ready".to_owned(),
                EntryState::Delayed(until) => format!(" delayed {}", moment(*until)),
                EntryState::Leased { consumer, until } => {
                    format!(" leased {consumer} {}", moment(*until))
                }
            };
            (world.names[&view.entry.position].clone(), state)
        })
        .collect();
    list(&items)
}

/// `poison from q: the sentence | 1 nacked by alice: why | redriven 1`.
pub(crate) fn history(world: &World, words: &[&str]) -> String {
    let (queue, name) = (words[0], words[1]);
    let peek = Peek {
        state: StateFilter::Any,
        after: Seq(0),
        limit: usize::MAX,
    };
    let pager = &mut |queue, number| world.disk.page(queue, number);
    let views = world.broker.peek(queue, peek, pager).unwrap();
    let view = views
        .iter()
        .find(|view| world.names[&view.entry.position] == name);
    match &view.expect("the entry is there").note {
        None => "nothing".to_owned(),
        Some(note) => note_line(note),
    }
}

fn note_line(note: &Note) -> String {
    let mut parts = Vec::new();
    if let Some(letter) = &note.dead_letter {
        parts.push(colon(
            &format!("{} from {}", letter.reason, letter.queue),
            &letter.description,
        ));
    }
    let attempts: Vec<_> = note.attempts.iter().map(attempt).collect();
    if !attempts.is_empty() {
        parts.push(attempts.join(", "));
    }
    if note.redrives > 0 {
        parts.push(format!("redriven {}", note.redrives));
    }
    parts.join(" | ")
}

fn attempt(attempt: &Attempt) -> String {
    let outcome = format!("{:?}", attempt.outcome).to_lowercase();
    colon(
        &format!("{} {outcome} by {}", attempt.number, attempt.consumer),
        &attempt.error,
    )
}

fn colon(what: &str, text: &str) -> String {
    match text.len() {
        0 => what.to_owned(),
        1..=40 => format!("{what}: {text}"),
        bytes => format!("{what}: {bytes} bytes"),
    }
}

/// The names of consumers for which an entry waits for their connection.
pub(crate) fn blocked(world: &mut World) -> String {
    let blocked = world.broker.drain_blocked();
    who(world, &blocked)
}

/// The names of consumers that are in the way of others.
pub(crate) fn stuck(world: &mut World) -> String {
    let stuck = world.broker.drain_stuck();
    who(world, &stuck)
}

fn who(world: &World, consumers: &[ConsumerId]) -> String {
    let names: BTreeSet<_> = consumers
        .iter()
        .map(|id| world.name_of(*id).to_owned())
        .collect();
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// The names of consumers whose queue was deleted.
pub(crate) fn ended(world: &mut World) -> String {
    let ended = world.broker.drain_ended();
    let names: Vec<_> = ended.iter().map(|id| world.name_of(*id)).collect();
    if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(", ")
    }
}

/// Those figures of a queue that are expected: `ready=1 leased=0`.
pub(crate) fn counts(world: &World, queue: &str, expected: &str) -> String {
    let view = match world.broker.view(queue, world.now) {
        Ok(view) => view,
        Err(error) => return format!("error: {error}"),
    };
    let keys = expected
        .split_whitespace()
        .filter_map(|word| word.split('=').next());
    let counts: Vec<_> = keys
        .map(|key| format!("{key}={}", count(&view, key)))
        .collect();
    counts.join(" ")
}

fn count(view: &QueueView, key: &str) -> String {
    let totals = &view.totals;
    let number = match key {
        "ready" => view.ready,
        "delayed" => view.delayed,
        "leased" => view.leased,
        "dead" => view.dead,
        "bytes" => view.bytes,
        "published" => totals.published,
        "delivered" => totals.delivered,
        "acked" => totals.acked,
        "nacked" => totals.nacked,
        "released" => totals.released,
        "expired" => totals.expired,
        "disconnected" => totals.disconnected,
        "purged" => totals.purged,
        "redriven" => totals.redriven,
        "consumers" => view.consumers.len() as u64,
        "held" => view.consumers.iter().map(|consumer| consumer.leased).sum(),
        "held_bytes" => view
            .consumers
            .iter()
            .map(|consumer| consumer.leased_bytes)
            .sum(),
        "waited" => totals.time_in_queue.count(),
        "processed" => totals.processing_time.count(),
        "paused" => u64::from(view.definition.options.paused),
        "oldest_ready" => return view.oldest_ready_age.map_or("none".to_owned(), span),
        "oldest_leased" => return view.oldest_leased_age.map_or("none".to_owned(), span),
        "dead_of" => return view.dead_letter_of.as_deref().unwrap_or("none").to_owned(),
        _ => match key.strip_prefix("dead.") {
            Some(reason) => totals
                .dead_lettered
                .get(reason)
                .copied()
                .unwrap_or_default(),
            None => panic!("{key} is no figure"),
        },
    };
    number.to_string()
}

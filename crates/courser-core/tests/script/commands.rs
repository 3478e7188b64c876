//! The commands of scripts.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use courser_core::{
    broker::{ConsumerOptions, RedriveTask},
    error::QueueError,
    id::{ConsumerId, LeaseId, Seq},
    lease::{DeadLetterReason, Nack, Settlement, Verdict},
    message::NewMessage,
    name::Pattern,
    options::{Durability, QueueOptions},
    stats::{Peek, StateFilter},
    time::Timestamp,
};

use crate::{
    check::{duration, list, moment},
    show,
    world::{Client, World},
};

/// The words of a command: plain ones in order, and `key=value`.
pub(crate) struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn plain(&self, at: usize) -> Option<&'a str> {
        self.0
            .iter()
            .filter(|word| !word.contains('='))
            .nth(at)
            .copied()
    }

    fn has(&self, flag: &str) -> bool {
        self.0.contains(&flag)
    }

    fn text(&self, key: &str) -> Option<String> {
        let value = self
            .0
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
        Some(match value.split_once('*') {
            Some((part, times)) if times.parse::<usize>().is_ok() => {
                part.repeat(times.parse().unwrap())
            }
            _ => value.to_owned(),
        })
    }

    fn number<T: FromStr>(&self, key: &str) -> Option<T> {
        self.text(key)
            .map(|text| text.parse().unwrap_or_else(|_| panic!("{key} is a number")))
    }

    fn duration(&self, key: &str) -> Option<Duration> {
        self.text(key)
            .map(|text| duration(&text).unwrap_or_else(|| panic!("{key} is a duration")))
    }
}

fn answer<T>(result: Result<T, impl std::error::Error>, show: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(value) => show(value),
        Err(error) => format!("error: {error}"),
    }
}

fn ok<T>(_: T) -> String {
    "ok".to_owned()
}

impl World {
    pub(crate) fn command(&mut self, command: &str, rest: &str, expected: &str) -> String {
        let words = Words(rest.split_whitespace().collect());
        match command {
            "queue" => self.create(&words),
            "update" | "pause" | "resume" => self.update(command, &words),
            "delete" => self.delete(&words),
            "purge" => self.purge(&words),
            "redrive" => self.redrive(&words),
            "publish" => self.publish(rest),
            "subscribe" => self.subscribe(&words),
            "deliver" => {
                let handed = self.deliver(words.number("limit").unwrap_or(1_000));
                show::handed(self, &handed)
            }
            "taken" | "drain" | "disconnect" | "detach" => self.client(command, &words),
            "ack" | "release" | "nack" | "reject" | "extend" => self.settle(command, &words),
            "blocked" => show::blocked(self),
            "of_more" => self.broker.take_handed_of_more().to_string(),
            "stuck" => show::stuck(self),
            "ended" => show::ended(self),
            "counts" => show::counts(self, words.plain(0).unwrap_or(&self.queue), expected),
            "peek" => self.peek(&words),
            "history" => show::history(self, &words.0),
            "next" => self
                .broker
                .poll_timeout()
                .map_or("never".to_owned(), moment),
            "synced" => self.synced.to_owned(),
            "checkpoint" => self.checkpoint(rest),
            "restart" | "crash" => self.restart(command, words.plain(0)),
            _ => panic!("{command} is no command"),
        }
    }

    fn queue_of(&self, words: &Words<'_>) -> String {
        words.plain(0).unwrap_or(&self.queue).to_owned()
    }

    // ---- queues

    fn create(&mut self, words: &Words<'_>) -> String {
        let name = words.plain(0).expect("a queue has a name").to_owned();
        let mut options = QueueOptions::default();
        (options.backoff.initial, options.backoff.jitter) = (Duration::ZERO, 0.0);
        change(&mut options, words);
        if self.queue.is_empty() {
            self.queue.clone_from(&name);
        }
        let made = self.broker.create_queue(self.now, &name, options);
        answer(made, |made| {
            if made { "made" } else { "was there" }.to_owned()
        })
    }

    fn update(&mut self, command: &str, words: &Words<'_>) -> String {
        let name = self.queue_of(words);
        let result = self
            .broker
            .update_queue(self.now, &name, |options| match command {
                "pause" => options.paused = true,
                "resume" => options.paused = false,
                _ => change(options, words),
            });
        answer(result, ok)
    }

    fn delete(&mut self, words: &Words<'_>) -> String {
        let result = self
            .broker
            .delete_queue(&self.queue_of(words), words.has("if_empty"));
        answer(result, |(entries, dead)| {
            format!("{entries} and {dead} dead")
        })
    }

    fn purge(&mut self, words: &Words<'_>) -> String {
        let (name, disk) = (self.queue_of(words), &self.disk);
        let pager = &mut |queue, number| disk.page(queue, number);
        let purged = self.broker.purge_queue(&name, words.number("limit"), pager);
        answer(purged, |purged| purged.to_string())
    }

    fn redrive(&mut self, words: &Words<'_>) -> String {
        let queue = self.queue_of(words);
        let names = words.text("entries").unwrap_or_default();
        let names: Vec<_> = names.split(',').filter(|name| !name.is_empty()).collect();
        let mut entries: Vec<_> = names.iter().map(|name| self.seq(&queue, name)).collect();
        entries.sort_unstable();
        let mut task = RedriveTask {
            queue,
            to: words.text("to"),
            limit: words.number("limit").unwrap_or(u64::MAX),
            entries,
            reason: words.text("reason"),
            dry_run: words.has("dry_run"),
            after: Seq(0),
            before: None,
        };
        answer(self.redrive_all(&mut task), |moved| moved.to_string())
    }

    fn redrive_all(&mut self, task: &mut RedriveTask) -> Result<u64, QueueError> {
        let mut moved = 0;
        loop {
            let disk = &self.disk;
            let pager = &mut |queue, number| disk.page(queue, number);
            let step = self.broker.redrive_step(task, self.now, pager)?;
            moved += step.moved;
            if step.done {
                return Ok(moved);
            }
        }
    }

    fn peek(&mut self, words: &Words<'_>) -> String {
        let name = self.queue_of(words);
        let peek = Peek {
            state: match words.plain(1) {
                None => StateFilter::Any,
                Some("ready") => StateFilter::Ready,
                Some("delayed") => StateFilter::Delayed,
                Some("leased") => StateFilter::Leased,
                Some(other) => panic!("{other} is no state"),
            },
            after: words
                .text("after")
                .map_or(Seq(0), |of| self.seq(&name, &of)),
            limit: words.number("limit").unwrap_or(usize::MAX),
        };
        let disk = &self.disk;
        let pager = &mut |queue, number| disk.page(queue, number);
        let views = self.broker.peek(&name, peek, pager);
        answer(views, |views| show::entries(self, &views))
    }

    // ---- messages

    fn publish(&mut self, rest: &str) -> String {
        let (topic, names) = rest.split_once(' ').expect("publish TOPIC NAMES");
        let mandatory = names.ends_with(" mandatory");
        let names: Vec<_> = names
            .trim_end_matches(" mandatory")
            .split(',')
            .flat_map(|name| each(name.trim()))
            .collect();
        let messages: Vec<_> = names
            .iter()
            .map(|(_, size)| message(topic, *size))
            .collect();
        let placement = self.broker.publish(self.now, &messages, mandatory);
        let placement = match placement {
            Ok(placement) => placement,
            Err(error) => return format!("error: {error}"),
        };
        let mut said = Vec::new();
        for ((name, _), placed) in names.into_iter().zip(&placement.placed) {
            said.push((
                placed.position.to_string(),
                format!(" in {}", placed.queues),
            ));
            self.names.insert(placed.position, name);
        }
        let sync = if placement.sync { "synced" } else { "buffered" };
        format!("{}, {sync}", list(&said))
    }

    fn subscribe(&mut self, words: &Words<'_>) -> String {
        let name = words.plain(0).expect("a consumer has a name").to_owned();
        let flags = ["auto_ack", "slow"];
        let queue = words
            .plain(1)
            .filter(|word| !flags.contains(word))
            .unwrap_or(&self.queue);
        let options = ConsumerOptions {
            name: name.as_str().into(),
            max_messages: words.number("credit").unwrap_or(10_000),
            max_bytes: words.number("bytes").unwrap_or(1 << 30),
            lease: words.duration("lease"),
            auto_ack: words.has("auto_ack"),
            limit: words.number("limit"),
            window_bytes: words.number("window").unwrap_or(1024 * 1024),
        };
        answer(self.broker.subscribe(queue, options), |id| {
            let leases = self.clients.remove(&name).map(|client| client.leases);
            let slow = words.has("slow");
            let leases = leases.unwrap_or_default();
            self.clients.insert(
                name,
                Client {
                    id,
                    slow,
                    handed: Vec::new(),
                    leases,
                },
            );
            "ok".to_owned()
        })
    }

    fn client(&mut self, command: &str, words: &Words<'_>) -> String {
        let id = self.clients[words.plain(0).expect("a consumer is named")].id;
        match (command, words.plain(1)) {
            ("taken", Some(count)) => self.take(id, count.parse().unwrap()),
            ("drain", _) => self.broker.drain(id),
            ("disconnect", _) => self.broker.handle_disconnect(id, self.now),
            _ => self.broker.detach(id),
        }
        "ok".to_owned()
    }

    fn settle(&mut self, command: &str, words: &Words<'_>) -> String {
        let (client, name) = (words.plain(0).unwrap(), words.plain(1).unwrap());
        let leases = self.clients.get(client).map(|client| &client.leases);
        let lease_id = match leases.and_then(|leases| leases.get(name)) {
            Some(lease_id) => *lease_id,
            None => LeaseId(name.parse().expect("the consumer was handed this")),
        };
        let text = |key| words.text(key).unwrap_or_default().into_boxed_str();
        let verdict = match command {
            "ack" => Verdict::Ack,
            "release" => Verdict::Release,
            "nack" => Verdict::Nack(Box::new(Nack {
                retry_after: words.duration("retry_after"),
                error: text("error"),
            })),
            "reject" => Verdict::DeadLetter(Box::new(DeadLetterReason {
                reason: text("reason"),
                description: text("description"),
            })),
            _ => Verdict::Extend(duration(words.plain(2).unwrap()).unwrap()),
        };
        answer(
            self.broker
                .settle(self.now, Settlement { lease_id, verdict }),
            ok,
        )
    }

    // ---- the disk

    fn checkpoint(&mut self, part: &str) -> String {
        if part != "end" {
            self.commit();
            self.disk.begin(self.broker.checkpoint());
        }
        if part != "begin" {
            self.disk.finish();
            self.broker.checkpoint_done();
        }
        let (queues, chunks) = self.disk.indexed();
        format!("{queues} queues, {chunks} chunks")
    }

    fn restart(&mut self, command: &str, how: Option<&str>) -> String {
        match (command, how) {
            ("crash", Some("after_queues")) => self.disk.crash_after_queues(),
            ("crash", _) => self.disk.crash(&mut self.random),
            (_, Some("an_hour_earlier")) => {
                self.disk.abandon();
                self.now = Timestamp::from_micros(self.now.as_micros() - 3_600_000_000);
            }
            _ => self.disk.abandon(),
        }
        self.broker = self.disk.recover(1);
        for client in self.clients.values_mut() {
            client.id = ConsumerId(0);
        }
        self.handle_timeout();
        "ok".to_owned()
    }
}

/// `a` is one message, `b:500` one of 500 bytes, `1..600` are many.
fn each(name: &str) -> Vec<(String, usize)> {
    let (name, size) = name.split_once(':').unwrap_or((name, "0"));
    let size = size.parse().expect("a size in bytes");
    match name.split_once("..") {
        None => vec![(name.to_owned(), size)],
        Some((first, last)) => {
            let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
            (first..=last)
                .map(|name| (name.to_string(), size))
                .collect()
        }
    }
}

/// A message that counts for `size` bytes, or as few as it can.
fn message(topic: &str, size: usize) -> NewMessage {
    NewMessage {
        id: None,
        topic: topic.into(),
        payload: Bytes::from(vec![0; size.saturating_sub(topic.len())]),
        headers: Vec::new(),
        attributes: None,
    }
}

fn change(options: &mut QueueOptions, words: &Words<'_>) {
    let backoff = &mut options.backoff;
    backoff.initial = words.duration("backoff").unwrap_or(backoff.initial);
    backoff.max = words.duration("backoff_max").unwrap_or(backoff.max);
    backoff.multiplier = words.number("multiplier").unwrap_or(backoff.multiplier);
    backoff.jitter = words.number("jitter").unwrap_or(backoff.jitter);
    options.lease = words.duration("lease").unwrap_or(options.lease);
    options.max_attempts = words.number("max_attempts").unwrap_or(options.max_attempts);
    if let Some(patterns) = words.text("bind") {
        let patterns = patterns.split(',').filter(|pattern| !pattern.is_empty());
        options.bindings = patterns
            .map(|pattern| Pattern::new(pattern).unwrap())
            .collect();
    }
    if let Some(value) = words.text("dead_letter") {
        options.dead_letter = value == "on";
    }
    if let Some(value) = words.text("durability") {
        let synced = value == "synced";
        options.durability = if synced {
            Durability::Synced
        } else {
            Durability::Buffered
        };
    }
    options.paused |= words.has("paused");
}

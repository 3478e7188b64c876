//! What a script talks to: a broker, its disk, the time, and consumers with what they were handed.

use std::collections::BTreeMap;

use courser_core::{
    broker::{Broker, HandOver},
    id::{ConsumerId, LeaseId, Position, Seq},
    random::Random,
    stats::{Peek, StateFilter},
    time::Timestamp,
};

use crate::{
    check::{START, duration},
    disk::Disk,
};

pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) disk: Disk,
    pub(crate) now: Timestamp,
    /// The first queue: meant when none is named.
    pub(crate) queue: String,
    /// What messages are called in the script.
    pub(crate) names: BTreeMap<Position, String>,
    pub(crate) clients: BTreeMap<String, Client>,
    /// Whether the records of the last command had to be synced.
    pub(crate) synced: &'static str,
    pub(crate) random: Random,
}

/// A consumer.
pub(crate) struct Client {
    pub(crate) id: ConsumerId,
    /// Its connection takes nothing unless told to.
    pub(crate) slow: bool,
    /// The sizes of what it was handed.
    pub(crate) handed: Vec<u32>,
    pub(crate) leases: BTreeMap<String, LeaseId>,
}

impl Default for World {
    fn default() -> Self {
        let mut disk = Disk::default();
        Self {
            broker: disk.recover(1),
            disk,
            now: START,
            queue: String::new(),
            names: BTreeMap::new(),
            clients: BTreeMap::new(),
            synced: "nothing",
            random: Random::new(1),
        }
    }
}

impl World {
    /// Runs a command; answers what it said.
    pub(crate) fn run(&mut self, command: &str, expected: &str) -> String {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        if let Some(after_start) = duration(word) {
            self.advance(START + after_start);
            if rest.is_empty() {
                return "ok".to_owned();
            }
            return self.run(rest.trim(), expected);
        }
        let answer = self.command(word, rest.trim(), expected);
        if word != "synced" {
            self.commit();
        }
        answer
    }

    /// Time goes on, from timeout to timeout.
    fn advance(&mut self, to: Timestamp) {
        assert!(to >= self.now, "time never goes back");
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= to) {
            self.now = self.now.max(at);
            self.handle_timeout();
            let next = self.broker.poll_timeout();
            assert!(
                next.is_none_or(|next| next > self.now),
                "all that was due is done"
            );
        }
        self.now = to;
        self.handle_timeout();
    }

    pub(crate) fn handle_timeout(&mut self) {
        let (disk, now) = (&self.disk, self.now);
        let mut pager = |queue, number| disk.page(queue, number);
        self.broker.handle_timeout(now, &mut pager, &mut |_| None);
        while self.broker.poll_timeout().is_some_and(|at| at <= now) {
            self.broker.handle_timeout(now, &mut pager, &mut |_| None);
        }
        self.commit();
    }

    pub(crate) fn commit(&mut self) {
        let drained = self.broker.drain_records();
        self.synced = match (drained.records.is_empty(), drained.sync) {
            (true, false) => "nothing",
            (false, false) => "buffered",
            (_, true) => "synced",
        };
        self.disk
            .commit(drained.records, self.broker.next_position());
    }

    /// Hands over all that can be handed over.
    pub(crate) fn deliver(&mut self, limit: usize) -> Vec<HandOver> {
        let mut handed = Vec::new();
        loop {
            let before = handed.len();
            let disk = &self.disk;
            let pager = &mut |queue, number| disk.page(queue, number);
            let more = self
                .broker
                .poll_deliveries(self.now, limit, pager, &mut handed);
            for hand_over in &handed[before..] {
                self.hand(hand_over);
            }
            if !more {
                return handed;
            }
        }
    }

    fn hand(&mut self, hand_over: &HandOver) {
        let name = self.names[&hand_over.position].clone();
        let client = self
            .clients
            .values_mut()
            .find(|client| client.id == hand_over.consumer);
        let client = client.expect("a delivery has its consumer");
        client.handed.push(hand_over.size);
        if hand_over.lease_id != LeaseId(0) {
            client.leases.insert(name, hand_over.lease_id);
        }
        if !client.slow {
            let (id, count) = (client.id, client.handed.len());
            self.take(id, count);
        }
    }

    /// A consumer's connection takes the first `count` of what it was handed.
    pub(crate) fn take(&mut self, consumer: ConsumerId, count: usize) {
        let client = self
            .clients
            .values()
            .find(|client| client.id == consumer)
            .unwrap();
        let bytes = client.handed[..count]
            .iter()
            .map(|size| u64::from(*size))
            .sum();
        self.broker.handle_taken(consumer, count as u64, bytes);
    }

    /// The place of a message in a queue.
    pub(crate) fn seq(&mut self, queue: &str, name: &str) -> Seq {
        let mut after = Seq(0);
        loop {
            let peek = Peek {
                state: StateFilter::Any,
                after,
                limit: usize::MAX,
            };
            let disk = &self.disk;
            let pager = &mut |queue, number| disk.page(queue, number);
            let views = self.broker.peek(queue, peek, pager).unwrap();
            if let Some(view) = views
                .iter()
                .find(|view| self.names[&view.entry.position] == name)
            {
                return view.entry.seq;
            }
            after = views
                .last()
                .unwrap_or_else(|| panic!("{queue} has no entry {name}"))
                .entry
                .seq;
        }
    }

    pub(crate) fn name_of(&self, consumer: ConsumerId) -> &str {
        let of = self
            .clients
            .iter()
            .find(|(_, client)| client.id == consumer);
        of.map_or("nobody", |(name, _)| name)
    }
}

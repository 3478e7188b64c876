//! Pulls that wait for an entry.

use std::collections::{BTreeSet, HashMap};

use courser_core::{
    id::ConsumerId,
    lease::{Settlement, Verdict},
    time::Timestamp,
};
use tokio::sync::{mpsc, oneshot};

use crate::{command::Command, request::Delivery, turn::PullReply};

/// Pulls by the consumer that stands for each in the core.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    waiting: HashMap<ConsumerId, (Timestamp, PullReply)>,
    deadlines: BTreeSet<(Timestamp, ConsumerId)>,
}

impl Pulls {
    pub(crate) fn add(&mut self, consumer: ConsumerId, until: Timestamp, reply: PullReply) {
        self.deadlines.insert((until, consumer));
        self.waiting.insert(consumer, (until, reply));
    }

    pub(crate) fn take(&mut self, consumer: ConsumerId) -> Option<PullReply> {
        let (until, reply) = self.waiting.remove(&consumer)?;
        self.deadlines.remove(&(until, consumer));
        Some(reply)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A pull that has waited long enough.
    pub(crate) fn next_expired(&self, now: Timestamp) -> Option<ConsumerId> {
        self.deadlines
            .first()
            .filter(|(at, _)| *at <= now)
            .map(|(_, consumer)| *consumer)
    }

    /// It has what it waited for, only its messages are still being read.
    pub(crate) fn wait_on(&mut self, consumer: ConsumerId) {
        if let Some((until, _)) = self.waiting.get(&consumer) {
            self.deadlines.remove(&(*until, consumer));
        }
    }

    pub(crate) fn consumers(&self) -> Vec<ConsumerId> {
        self.waiting.keys().copied().collect()
    }
}

/// The client of a pull went away before the answer: its leases are given back without blame.
pub(crate) fn give_back(deliveries: &[Delivery], commands: &mpsc::Sender<Command>) {
    let settlements: Vec<_> = deliveries
        .iter()
        .map(|delivery| Settlement {
            lease_id: delivery.lease_id,
            verdict: Verdict::Release,
        })
        .collect();
    let (reply, _nobody) = oneshot::channel();
    // When the inbox is full, the leases run out by themselves.
    drop(commands.try_send(Command::Settle { settlements, reply }));
}

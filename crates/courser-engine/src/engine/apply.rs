//! What each command does.

use bytes::Bytes;
use courser_core::{
    broker::ConsumerOptions,
    error::Unavailable,
    message::{Message, SharedMessage},
    options::Durability,
    time::Timestamp,
};
use uuid::Uuid;

use super::{Engine, deliver::Outlet};
use crate::{
    command::{Command, Permits, PublishCommand, PublishReply, Reply},
    limits,
    request::{
        Event, Health, Open, Publish, PublishError, Published, QueueError, Settled, Settlement,
    },
    subscription::{Cut, Subscription},
    turn::{Output, Turn, store_failed},
};

impl Engine {
    pub(super) fn apply(&mut self, command: Command, now: Timestamp, turn: &mut Turn) {
        let command = match self.failure.get() {
            Some(_) => refuse(command),
            None => Some(command),
        };
        let Some(command) = command else { return };
        match command {
            Command::Publish(command) => self.publishes.push_back(command),
            Command::Subscribe {
                open,
                window_bytes,
                cut,
                reply,
            } => self.subscribe(open, window_bytes, cut, reply),
            Command::Taken { consumer } => self.note_taken(consumer),
            Command::Recall { consumer, from } => self.recall(consumer, from, turn),
            Command::Drain { consumer } => self.drain(consumer, turn),
            Command::Unsubscribe { consumer, unsent } => self.unsubscribe(consumer, unsent, now),
            Command::Detach { consumer } => self.detach(consumer),
            Command::SettleOn {
                consumer,
                settlements,
                without_results,
                permit,
                along,
            } => {
                let settled = self.settle(settlements, now);
                let event = match without_results {
                    false => Event::Settled(settled, along),
                    true if settled.refused.is_empty() => return,
                    true => Event::Refused(settled.refused, along),
                };
                permit.forget();
                if let Some(outlet) = self.outlets.get(&consumer) {
                    turn.outputs.push(outlet.event(consumer, event));
                }
            }
            Command::Settle { settlements, reply } => {
                let settled = self.settle(settlements, now);
                answer(turn, reply, Ok(settled));
            }
            Command::Loaded(loaded) => self.loaded(loaded, now, turn),
            Command::CheckpointDone => {
                self.progress.under_way = false;
                self.broker.checkpoint_done();
            }
            Command::RoomIsShort => self.progress.note_shortage(now),
            Command::Shutdown { reply } => {
                self.health.send_replace(Health::ShuttingDown);
                self.shutdown.push(reply);
                self.door.inbox.close();
            }
            Command::Change(change) => self.change(change, now, turn),
            Command::Look(look) => self.look(look, now),
        }
    }

    // ---- publish

    /// Publishes what waits, in its order, about as many entries as a turn hands over: a publish that
    /// goes to many queues must not outrun their consumers for as long as these keep up.
    pub(super) fn publish_waiting(&mut self, now: Timestamp, turn: &mut Turn) {
        let mut entries = 0;
        while entries < limits::ENTRIES_PER_TURN
            && let Some(command) = self.publishes.pop_front()
        {
            if self.failure.get().is_some() {
                let PublishCommand { reply, permits, .. } = command;
                refuse_publish(reply, permits, Unavailable::StoreFailed.into(), turn);
            } else {
                entries += self.publish(command, now, turn);
            }
        }
        self.again |= !self.publishes.is_empty();
    }

    /// Answers how many entries it made.
    fn publish(&mut self, command: PublishCommand, now: Timestamp, turn: &mut Turn) -> usize {
        let PublishCommand {
            publish,
            reply,
            permits,
        } = command;
        let Publish {
            messages,
            mandatory,
            durability,
            without_results,
        } = publish;
        let refusal = self.room.refusal().map_or(Ok(()), Err);
        let placed = refusal.and_then(|()| self.broker.publish(now, &messages, mandatory));
        let placement = match placed {
            Ok(placement) => placement,
            Err(error) => {
                refuse_publish(reply, permits, error, turn);
                return 0;
            }
        };
        let entries = placement.placed.iter().map(|placed| placed.queues as usize);
        let entries = entries.sum();
        turn.sync |= placement.sync && durability == Durability::Synced;
        let results = if without_results { 0 } else { messages.len() };
        let mut results = Vec::with_capacity(results);
        let mut kept = Vec::with_capacity(messages.len());
        let mut queues_of = Vec::with_capacity(messages.len());
        let sizes = messages.iter().map(|message| u64::from(message.size()));
        let taken = sizes.clone().zip(&placement.placed);
        let taken = taken.filter(|(_, placed)| placed.queues > 0);
        let taken: u64 = taken.map(|(size, _)| size).sum();
        // Payloads are slices of the buffer that the request came in, and keep all of it in memory: a
        // few that are taken must not keep those that are not.
        let is_smaller_part = taken < sizes.sum::<u64>() / 2;
        for (message, placed) in messages.into_iter().zip(placement.placed) {
            let uuid = if message.id.is_none() {
                self.uuid(now)
            } else {
                Uuid::nil()
            };
            let mut message = message.placed(placed.position, now, uuid);
            if is_smaller_part {
                message.payload = Bytes::copy_from_slice(&message.payload);
            }
            let (position, queues) = (placed.position, placed.queues);
            if !without_results {
                results.push(Published {
                    position,
                    id: message.id.clone(),
                    queues,
                });
            }
            if queues > 0 {
                kept.push(message);
                queues_of.push(queues);
            }
        }
        self.keep(kept, &queues_of, turn);
        turn.outputs.push(Output::Confirm {
            reply,
            results,
            permits,
        });
        entries
    }

    /// Keeps messages that came together, each for so many queues.
    fn keep(&mut self, messages: Vec<Message>, queues: &[u32], turn: &mut Turn) {
        let before = turn.messages.len();
        turn.messages.extend(SharedMessage::all(messages));
        let messages = &turn.messages[before..];
        let bytes = messages.iter().map(|message| message.size() as usize);
        turn.message_bytes += bytes.sum::<usize>();
        let together = messages.iter().cloned().zip(queues.iter().copied());
        self.recent.push(together);
    }

    fn uuid(&mut self, now: Timestamp) -> Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.random.next_u64().to_le_bytes());
        random[8..].copy_from_slice(&self.random.next_u64().to_le_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(now.as_micros() / 1_000, &random).into_uuid()
    }

    // ---- consume

    fn subscribe(
        &mut self,
        open: Open,
        window_bytes: u64,
        cut: Cut,
        reply: Reply<Result<Subscription, QueueError>>,
    ) {
        let (queue, options) = consumer_options(open, window_bytes);
        let subscribed = self.broker.subscribe(&queue, options).map(|consumer| {
            let (subscription, events) =
                Subscription::new(consumer, self.door.clone(), self.clock.clone());
            let outlet = Outlet::new(events, subscription.flow.clone(), cut);
            self.outlets.insert(consumer, outlet);
            subscription
        });
        drop(reply.send(subscribed));
    }

    fn settle(&mut self, settlements: Vec<Settlement>, now: Timestamp) -> Settled {
        let mut settled = Settled {
            ok: Vec::with_capacity(settlements.len()),
            ..Settled::default()
        };
        for settlement in settlements {
            let lease_id = settlement.lease_id;
            match self.broker.settle(now, settlement) {
                Ok(()) => settled.ok.push(lease_id),
                Err(error) => settled.refused.push((lease_id, error)),
            }
        }
        settled
    }
}

/// The store has failed: memory is ahead of the disk, and nothing more may be promised. Answers what can
/// be done all the same.
fn refuse(command: Command) -> Option<Command> {
    match command {
        Command::Subscribe { reply, .. } => drop(reply.send(Err(store_failed()))),
        Command::Settle { reply, .. } => drop(reply.send(Err(store_failed()))),
        // Its subscription has been told of the end.
        Command::SettleOn { .. } => {}
        Command::Change(change) => change.refuse(),
        // Refused in its turn, behind those that wait already.
        Command::Publish(_)
        | Command::Look(_)
        | Command::Taken { .. }
        | Command::Recall { .. }
        | Command::Drain { .. }
        | Command::Unsubscribe { .. }
        | Command::Detach { .. }
        | Command::Loaded(_)
        | Command::CheckpointDone
        | Command::RoomIsShort
        | Command::Shutdown { .. } => return Some(command),
    }
    None
}

/// Refuses in its place: the confirms of a publisher come in the order of its requests.
fn refuse_publish(reply: PublishReply, permits: Permits, error: PublishError, turn: &mut Turn) {
    let refusal = move |_| {
        reply.send(Err(error));
        drop(permits);
    };
    turn.outputs.push(Output::Call(Box::new(refusal)));
}

/// Answers when the turn is durable; a refusal too, for it may rest on what an earlier command did.
pub(super) fn answer<T: Send + 'static>(
    turn: &mut Turn,
    reply: Reply<Result<T, QueueError>>,
    result: Result<T, QueueError>,
) {
    turn.outputs.push(Output::Call(Box::new(move |durable| {
        drop(reply.send(if durable { result } else { Err(store_failed()) }));
    })));
}

fn consumer_options(open: Open, window_bytes: u64) -> (String, ConsumerOptions) {
    let options = ConsumerOptions {
        name: open.consumer.into(),
        max_messages: open.max_messages,
        max_bytes: open.max_bytes,
        lease: open.lease,
        auto_ack: open.auto_ack,
        limit: open.limit,
        window_bytes,
    };
    (open.queue, options)
}

//! What each command does.

use std::sync::Arc;

use courser_core::{
    broker::{ConsumerOptions, RedriveTask},
    error::Unavailable,
    id::{ConsumerId, Seq},
    message::Message,
    options::Durability,
    time::Timestamp,
};
use courser_store::Usage;
use uuid::Uuid;

use super::{Engine, RedriveJob, deliver::Outlet};
use crate::{
    command::{Command, Permits, PublishCommand, PublishReply, Reply},
    loader::Load,
    request::{
        Event, Health, Open, Peek, Peeked, Publish, PublishError, Published, QueueError, Redrive,
        Settled, Settlement, Snapshot,
    },
    subscription::Subscription,
    turn::{Output, Turn, store_failed},
};

impl Engine {
    pub(super) fn apply(&mut self, command: Command, now: Timestamp, turn: &mut Turn) {
        if self.failure.get().is_some() && command.writes() {
            refuse(command, turn);
            return;
        }
        match command {
            Command::Publish(command) => self.publish(command, now, turn),
            Command::Subscribe {
                open,
                window_bytes,
                reply,
            } => self.subscribe(open, window_bytes, reply),
            Command::Taken { consumer } => self.note_taken(consumer),
            Command::Drain { consumer } => self.drain(consumer, turn),
            Command::Unsubscribe { consumer, unsent } => self.unsubscribe(consumer, unsent, now),
            Command::Detach { consumer } => self.detach(consumer),
            Command::SettleOn {
                consumer,
                settlements,
                permit,
            } => {
                permit.forget();
                self.settle_on(consumer, settlements, now, turn);
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
            Command::Shutdown { reply } => {
                self.health.send_replace(Health::ShuttingDown);
                self.shutdown.push(reply);
                self.inbox.close();
            }
            command => self.administer(command, now, turn),
        }
    }

    fn administer(&mut self, command: Command, now: Timestamp, turn: &mut Turn) {
        match command {
            Command::CreateQueue {
                name,
                options,
                reply,
            } => {
                let created = self
                    .broker
                    .create_queue(now, &name, options)
                    .and_then(|created| self.broker.view(&name, now).map(|view| (view, created)));
                answer(turn, reply, created);
            }
            Command::UpdateQueue {
                name,
                change,
                reply,
            } => {
                let updated = self.broker.update_queue(now, &name, change.0);
                let view = updated.and_then(|()| self.broker.view(&name, now));
                answer(turn, reply, view);
            }
            Command::DeleteQueue {
                name,
                if_empty,
                reply,
            } => {
                let deleted = self.broker.delete_queue(&name, if_empty);
                answer(turn, reply, deleted);
            }
            Command::PurgeQueue { name, limit, reply } => {
                let purged =
                    self.with_pager(|broker, pager| broker.purge_queue(&name, limit, pager));
                answer(turn, reply, purged);
            }
            Command::GetQueue { name, reply } => drop(reply.send(self.broker.view(&name, now))),
            Command::ListQueues {
                prefix,
                after,
                limit,
                reply,
            } => {
                drop(reply.send(self.broker.views(&prefix, after.as_deref(), limit, now)));
            }
            Command::Peek { queue, peek, reply } => self.peek(&queue, peek, reply),
            Command::Redrive { redrive, reply } => {
                let task = redrive_task(redrive);
                self.redrives.push_back(RedriveJob {
                    task,
                    moved: 0,
                    reply,
                });
            }
            Command::Snapshot { reply } => {
                let snapshot = Box::new(self.snapshot(now));
                self.ask_loader(Load::Usage { snapshot, reply });
            }
            _ => unreachable!("`apply` knows all others"),
        }
    }

    // ---- publish

    fn publish(&mut self, command: PublishCommand, now: Timestamp, turn: &mut Turn) {
        let PublishCommand {
            publish,
            reply,
            permits,
        } = command;
        let Publish {
            messages,
            mandatory,
            durability,
        } = publish;
        let placement = match self.broker.publish(now, &messages, mandatory) {
            Ok(placement) => placement,
            Err(error) => return refuse_publish(reply, permits, error, turn),
        };
        turn.sync |= placement.sync && durability == Durability::Synced;
        let mut results = Vec::with_capacity(messages.len());
        for (message, placed) in messages.into_iter().zip(placement.placed) {
            let uuid = if message.id.is_none() {
                self.uuid(now)
            } else {
                Uuid::nil()
            };
            let message = message.placed(placed.position, now, uuid);
            let (position, queues) = (placed.position, placed.queues);
            results.push(Published {
                position,
                id: message.id.clone(),
                queues,
            });
            if queues > 0 {
                self.keep(message, turn);
            }
        }
        turn.outputs.push(Output::Confirm {
            reply,
            results,
            permits,
        });
    }

    fn keep(&mut self, message: Message, turn: &mut Turn) {
        let message = Arc::new(message);
        turn.message_bytes += message.size() as usize;
        self.recent.push(Arc::clone(&message));
        turn.messages.push(message);
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
        reply: Reply<Result<Subscription, QueueError>>,
    ) {
        let (queue, options) = consumer_options(open, window_bytes);
        let subscribed = self.broker.subscribe(&queue, options).map(|consumer| {
            let (subscription, events) = Subscription::new(consumer, self.commands.clone());
            let outlet = Outlet::new(events, subscription.flow.clone());
            self.outlets.insert(consumer, outlet);
            subscription
        });
        drop(reply.send(subscribed));
    }

    fn settle_on(
        &mut self,
        consumer: ConsumerId,
        settlements: Vec<Settlement>,
        now: Timestamp,
        turn: &mut Turn,
    ) {
        let settled = self.settle(settlements, now);
        if let Some(outlet) = self.outlets.get(&consumer) {
            turn.outputs
                .push(outlet.event(consumer, Event::Settled(settled)));
        }
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

    // ---- look and move

    fn peek(&mut self, queue: &str, peek: Peek, reply: Reply<Result<Vec<Peeked>, QueueError>>) {
        match self.with_pager(|broker, pager| broker.peek(queue, peek, pager)) {
            Ok(views) => self.load_peeked(views, reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn load_peeked(
        &mut self,
        views: Vec<courser_core::stats::EntryView>,
        reply: Reply<Result<Vec<Peeked>, QueueError>>,
    ) {
        let known: Option<Vec<_>> = views
            .iter()
            .map(|view| self.recent.get(view.entry.position).cloned())
            .collect();
        match known {
            Some(messages) => {
                let pairs = views.into_iter().zip(messages);
                let peeked = pairs
                    .map(|(view, message)| Peeked {
                        view,
                        message: Some(message),
                    })
                    .collect();
                drop(reply.send(Ok(peeked)));
            }
            None => self.ask_loader(Load::Peek { views, reply }),
        }
    }

    /// One step of the redrive whose turn it is.
    pub(super) fn step_redrive(&mut self, now: Timestamp, turn: &mut Turn) {
        let Some(mut job) = self.redrives.pop_front() else {
            return;
        };
        let stepped =
            self.with_pager(|broker, pager| broker.redrive_step(&mut job.task, now, pager));
        match stepped {
            Ok(step) => {
                job.moved += step.moved;
                if step.done {
                    answer(turn, job.reply, Ok(job.moved));
                } else {
                    self.redrives.push_back(job);
                }
            }
            Err(error) => answer(turn, job.reply, Err(error)),
        }
        self.again |= !self.redrives.is_empty();
    }

    fn snapshot(&self, now: Timestamp) -> Snapshot {
        let commits = self
            .stats
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        Snapshot {
            queues: self.broker.views("", None, usize::MAX, now),
            last_position: courser_core::id::Position(self.broker.next_position().0 - 1),
            started_at: self.clock.started_at(),
            now,
            usage: Usage::default(),
            commits,
            failure: self.failure.get().map(str::to_owned),
        }
    }
}

impl Command {
    /// Whether it needs a store that takes writes.
    fn writes(&self) -> bool {
        match self {
            Self::Publish(_)
            | Self::Subscribe { .. }
            | Self::SettleOn { .. }
            | Self::Settle { .. }
            | Self::CreateQueue { .. }
            | Self::UpdateQueue { .. }
            | Self::DeleteQueue { .. }
            | Self::PurgeQueue { .. }
            | Self::Redrive { .. } => true,
            Self::Taken { .. }
            | Self::Drain { .. }
            | Self::Unsubscribe { .. }
            | Self::Detach { .. }
            | Self::GetQueue { .. }
            | Self::ListQueues { .. }
            | Self::Peek { .. }
            | Self::Snapshot { .. }
            | Self::Loaded(_)
            | Self::CheckpointDone
            | Self::Shutdown { .. } => false,
        }
    }
}

/// The store has failed: memory is ahead of the disk, and nothing more may be promised.
fn refuse(command: Command, turn: &mut Turn) {
    match command {
        Command::Publish(PublishCommand { reply, permits, .. }) => {
            refuse_publish(reply, permits, Unavailable::StoreFailed.into(), turn);
        }
        Command::Subscribe { reply, .. } => drop(reply.send(Err(store_failed()))),
        Command::Settle { reply, .. } => drop(reply.send(Err(store_failed()))),
        Command::CreateQueue { reply, .. } => drop(reply.send(Err(store_failed()))),
        Command::UpdateQueue { reply, .. } => drop(reply.send(Err(store_failed()))),
        Command::DeleteQueue { reply, .. } => drop(reply.send(Err(store_failed()))),
        Command::PurgeQueue { reply, .. } | Command::Redrive { reply, .. } => {
            drop(reply.send(Err(store_failed())));
        }
        _ => {}
    }
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
fn answer<T: Send + 'static>(
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

fn redrive_task(redrive: Redrive) -> RedriveTask {
    let mut entries = redrive.entries;
    entries.sort_unstable();
    entries.dedup();
    RedriveTask {
        queue: redrive.queue,
        to: redrive.to,
        limit: redrive.limit.unwrap_or(u64::MAX),
        entries,
        reason: redrive.reason,
        dry_run: redrive.dry_run,
        after: Seq(0),
        before: None,
    }
}

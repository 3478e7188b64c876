//! Queues are made, changed and looked at.

use courser_core::{broker::RedriveTask, id::Position, stats::EntryView, time::Timestamp};
use courser_store::Usage;

use super::{Engine, RedriveJob, apply::answer};
use crate::{
    command::{Change, Look, Reply},
    loader::Load,
    request::{Info, Peek, Peeked, QueueError, Redrive, Redriven, Snapshot},
    turn::{Turn, store_failed},
};

impl Engine {
    pub(super) fn change(&mut self, change: Change, now: Timestamp, turn: &mut Turn) {
        match change {
            Change::Create {
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
            Change::Update {
                name,
                change,
                reply,
            } => {
                let updated = self.broker.update_queue(now, &name, change.0);
                let view = updated.and_then(|()| self.broker.view(&name, now));
                answer(turn, reply, view);
            }
            Change::Delete {
                name,
                if_empty,
                reply,
            } => {
                let deleted = self.broker.delete_queue(&name, if_empty);
                answer(turn, reply, deleted);
            }
            Change::Purge { name, limit, reply } => {
                let purged =
                    self.with_pager(|broker, pager| broker.purge_queue(&name, limit, pager));
                answer(turn, reply, purged);
            }
            Change::Redrive { redrive, reply } => {
                let task = redrive_task(redrive);
                self.redrives.push_back(RedriveJob {
                    task,
                    moved: 0,
                    reply,
                });
            }
        }
    }

    pub(super) fn look(&mut self, look: Look, now: Timestamp) {
        match look {
            Look::Get { name, reply } => drop(reply.send(self.broker.view(&name, now))),
            Look::List {
                prefix,
                after,
                limit,
                reply,
            } => {
                drop(reply.send(self.broker.views(&prefix, after.as_deref(), limit, now)));
            }
            Look::Peek { queue, peek, reply } => self.peek(&queue, peek, reply),
            Look::Snapshot { reply } => {
                let snapshot = self.snapshot(now);
                self.with_usage(move |usage| drop(reply.send(Snapshot { usage, ..snapshot })));
            }
            Look::Info { reply } => {
                let info = self.info(now);
                self.with_usage(move |usage| drop(reply.send(Info { usage, ..info })));
            }
        }
    }

    fn peek(&mut self, queue: &str, peek: Peek, reply: Reply<Result<Vec<Peeked>, QueueError>>) {
        match self.with_pager(|broker, pager| broker.peek(queue, peek, pager)) {
            Ok(views) => self.load_peeked(views, reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn load_peeked(
        &mut self,
        views: Vec<EntryView>,
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
                    let (moved, last) = (job.moved, job.task.after);
                    answer(turn, job.reply, Ok(Redriven { moved, last }));
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
        let (space, min_free) = self.room.figures();
        Snapshot {
            queues: self.broker.views("", None, usize::MAX, now),
            last_position: Position(self.broker.next_position().0 - 1),
            started_at: self.clock.started_at(),
            now,
            usage: Usage::default(),
            commits,
            space,
            min_free,
            failure: self.failure.get().map(str::to_owned),
        }
    }

    fn info(&self, now: Timestamp) -> Info {
        Info {
            queues: self.broker.queue_count(),
            last_position: Position(self.broker.next_position().0 - 1),
            started_at: self.clock.started_at(),
            now,
            usage: Usage::default(),
            failure: self.failure.get().map(str::to_owned),
        }
    }

    fn with_usage(&self, answer: impl FnOnce(Usage) + Send + 'static) {
        self.ask_loader(Load::Usage(Box::new(answer)));
    }
}

impl Change {
    /// The store has failed.
    pub(super) fn refuse(self) {
        match self {
            Self::Create { reply, .. } => drop(reply.send(Err(store_failed()))),
            Self::Update { reply, .. } => drop(reply.send(Err(store_failed()))),
            Self::Delete { reply, .. } => drop(reply.send(Err(store_failed()))),
            Self::Purge { reply, .. } => drop(reply.send(Err(store_failed()))),
            Self::Redrive { reply, .. } => drop(reply.send(Err(store_failed()))),
        }
    }
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
        after: redrive.after,
        before: None,
    }
}

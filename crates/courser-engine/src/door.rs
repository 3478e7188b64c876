//! The way to the engine: into its inbox, and who brings a little carries it out himself when nobody else does.
//!
//! A little command is carried out by the thread that brings it. That saves waking the engine's thread, and the
//! one that waits for the answer: each takes about a third of what the sync takes. Whoever finds the seat taken leaves
//! his command in the inbox; whoever leaves the seat looks into it.
//! `docs/decisions/0070-straight-in.md`, `docs/decisions/0080-acks-join.md`.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::task::yield_now;

use crate::{command::Command, engine::Engine, inbox::Inbox, limits, tasks, watch::Watch};

/// The engine, and who is at work in it. `None` once it has ended.
pub(crate) type Seat = Mutex<Option<Engine>>;

/// Brings commands to the engine; cheap to clone.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) seat: Arc<Seat>,
    /// Looks on while a connection's thread carries out a command; `None` where none may, for there is no other thread for
    /// what else there is.
    pub(crate) watch: Option<Watch>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// Over the inbox, whose order is that of the calls; `false` when the engine has ended.
    pub(crate) async fn send(&self, command: Command) -> bool {
        let is_sent = self.inbox.send(command).await;
        self.knock();
        is_sent
    }

    /// As [`send`](Self::send), at once; gives it back when the inbox has no place for it just now.
    pub(crate) fn try_send(&self, command: Command) -> Option<Command> {
        let left = self.inbox.try_send(command);
        self.knock();
        left
    }

    /// The engine must hear of it, also when its inbox is full just now.
    pub(crate) fn tell(&self, what: &'static str, command: Command) {
        if let Some(command) = self.try_send(command) {
            let door = self.clone();
            tasks::spawn(what, async move { door.send(command).await });
        }
    }

    /// Over the inbox, and carries it out if it is little and nobody else does; `false` when the engine has ended.
    pub(crate) async fn bring(&self, command: Command) -> bool {
        let watch = self.watch.as_ref().filter(|_| command.is_little());
        if !self.inbox.send(command).await {
            return false;
        }
        let Some(watch) = watch else {
            self.knock();
            return true;
        };
        let duty = Duty(self);
        for _ in 0..limits::CARRIED_TURNS_MAX {
            if !self.carry_out(watch) {
                break;
            }
            // What is said now is told by other tasks of this thread.
            yield_now().await;
        }
        drop(duty);
        true
    }

    /// Carries out what little there is in the inbox; answers whether to go on with what has come meanwhile.
    fn carry_out(&self, watch: &Watch) -> bool {
        let Ok(mut seat) = self.seat.try_lock() else {
            // Whoever is in it looks into the inbox when he leaves it.
            return false;
        };
        let is_done = seat.as_mut().is_some_and(|engine| engine.carry_out(watch));
        drop(seat);
        is_done && !self.inbox.is_empty()
    }

    /// Wakes the engine's thread for what is in the inbox, unless somebody is in the seat, who looks when he leaves it.
    fn knock(&self) {
        if self.seat.try_lock().is_ok() {
            self.inbox.wake.notify_one();
        }
    }
}

/// Of who was in the seat: what came meanwhile must not be forgotten, also when the task that brought a command ends
/// before its turn comes again.
struct Duty<'a>(&'a Door);

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        if !self.0.inbox.is_empty() {
            self.0.knock();
        }
    }
}

/// The engine's thread takes its seat. `None` when it is over: somebody panicked in it, and what it knows is half a
/// turn.
pub(crate) fn take(seat: &Seat) -> Option<MutexGuard<'_, Option<Engine>>> {
    seat.lock().ok()
}

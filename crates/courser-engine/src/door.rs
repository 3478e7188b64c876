//! The way to the engine: over its inbox, or, when it has nothing to do, straight in.
//!
//! A command that comes alone is carried out by the thread that brings it. That saves waking the engine's
//! thread, and the one that waits for the answer: each takes about a third of what the sync takes.
//! `docs/decisions/0070-straight-in.md`.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use crate::{command::Command, engine::Engine, watch::Watch};

/// The engine, and who is at work in it. `None` once it has ended.
pub(crate) type Seat = Mutex<Option<Engine>>;

/// Brings commands to the engine; cheap to clone.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) commands: mpsc::Sender<Command>,
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
        self.commands.send(command).await.is_ok()
    }

    /// Straight in if it `is_little` and alone, or over the inbox; `false` when the engine has ended.
    pub(crate) async fn bring(&self, command: Command, is_little: bool) -> bool {
        let command = match &self.watch {
            Some(watch) if is_little => self.carry_out(command, watch),
            _ => Some(command),
        };
        match command {
            Some(command) => self.send(command).await,
            None => true,
        }
    }

    /// Gives it back when it is not alone.
    fn carry_out(&self, command: Command, watch: &Watch) -> Option<Command> {
        let Ok(mut seat) = self.seat.try_lock() else {
            return Some(command);
        };
        match &mut *seat {
            Some(engine) => engine.carry_out(command, watch),
            None => Some(command),
        }
    }
}

/// The engine's thread takes its seat. `None` when it is over: somebody panicked in it, and what it knows is half a
/// turn.
pub(crate) fn take(seat: &Seat) -> Option<MutexGuard<'_, Option<Engine>>> {
    seat.lock().ok()
}

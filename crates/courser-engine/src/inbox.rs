//! Commands on their way to the engine, in the order of their coming.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, Semaphore, TryAcquireError};

use crate::{command::Command, limits};

/// What the engine is asked for: bounded, but for what it asked for itself.
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    places: Semaphore,
    /// Wakes the engine's thread.
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    commands: VecDeque<Command>,
    is_closed: bool,
}

impl Waiting {
    fn has_little(&self, limit: usize) -> bool {
        self.commands.len() <= limit && self.commands.iter().all(Command::is_little)
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            places: Semaphore::new(limits::COMMANDS_WAITING_MAX),
            wake: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in here panics half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place; `false` when it is closed.
    pub(crate) async fn send(&self, command: Command) -> bool {
        if command.takes_place() {
            match self.places.acquire().await {
                Ok(place) => place.forget(),
                Err(_) => return false,
            }
        }
        self.push(command)
    }

    /// Gives it back when there is no place for it just now. What comes too late is dropped.
    pub(crate) fn try_send(&self, command: Command) -> Option<Command> {
        if command.takes_place() {
            match self.places.try_acquire() {
                Ok(place) => place.forget(),
                Err(TryAcquireError::NoPermits) => return Some(command),
                Err(TryAcquireError::Closed) => return None,
            }
        }
        self.push(command);
        None
    }

    fn push(&self, command: Command) -> bool {
        let mut waiting = self.lock();
        let is_open = !waiting.is_closed;
        if is_open {
            waiting.commands.push_back(command);
        }
        is_open
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().commands.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().commands.len()
    }

    /// What is in it is little, and at most so many.
    pub(crate) fn has_little(&self, limit: usize) -> bool {
        self.lock().has_little(limit)
    }

    /// Appends the next ones to `commands`, at most so many.
    pub(crate) fn take(&self, commands: &mut Vec<Command>, limit: usize) {
        let mut waiting = self.lock();
        let count = waiting.commands.len().min(limit);
        self.hand_out(&mut waiting, count, commands);
    }

    /// The same with all of them, if they are little and at most so many.
    pub(crate) fn take_little(&self, commands: &mut Vec<Command>, limit: usize) {
        let mut waiting = self.lock();
        if waiting.has_little(limit) {
            let count = waiting.commands.len();
            self.hand_out(&mut waiting, count, commands);
        }
    }

    fn hand_out(&self, waiting: &mut Waiting, count: usize, commands: &mut Vec<Command>) {
        let before = commands.len();
        commands.extend(waiting.commands.drain(..count));
        let places = commands[before..].iter().filter(|one| one.takes_place());
        self.places.add_permits(places.count());
    }

    /// Takes no more. What is in it stays.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.places.close();
    }

    /// The engine is gone: whoever waits for an answer hears of it.
    pub(crate) fn end(&self) {
        self.close();
        let commands = std::mem::take(&mut self.lock().commands);
        drop(commands);
    }

    /// Nothing is in it, and something may come.
    pub(crate) fn is_at_rest(&self) -> bool {
        let waiting = self.lock();
        waiting.commands.is_empty() && !waiting.is_closed
    }

    /// Nothing is in it, and nothing will be.
    pub(crate) fn has_ended(&self) -> bool {
        let waiting = self.lock();
        waiting.commands.is_empty() && waiting.is_closed
    }
}

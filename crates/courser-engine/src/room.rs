//! Room on the disk: publishing stops well before it is full, so that consumers can go on, and what they
//! settle makes room again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use courser_core::{error::PublishError, time::Timestamp};
use courser_store::{Space, Store};
use tokio::sync::watch;

use crate::{limits, request::Health};

/// Whether there is room; shared by the engine, who asks, and by who commits, who looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_low: AtomicBool,
    /// What the disk said last, and what is to stay free of it.
    figures: Mutex<(Space, u64)>,
}

impl Room {
    /// Why nothing is published now.
    pub(crate) fn refusal(&self) -> Option<PublishError> {
        if !self.0.is_low.load(Ordering::Relaxed) {
            return None;
        }
        let (space, min_free) = self.figures();
        Some(PublishError::DiskLow {
            free: space.free,
            min_free,
        })
    }

    /// What the disk said last, and the bytes that are to stay free of it.
    pub(crate) fn figures(&self) -> (Space, u64) {
        *self
            .0
            .figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the disk says; answers whether there is too little room, when that is news.
    fn note(&self, space: Space, min_free: u64) -> Option<bool> {
        *self
            .0
            .figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = (space, min_free);
        let was_low = self.0.is_low.load(Ordering::Relaxed);
        // A little more than what is to stay free must be there before publishing goes on.
        let needed = min_free + if was_low { min_free / 16 } else { 0 };
        let is_low = space.free < needed;
        self.0.is_low.store(is_low, Ordering::Relaxed);
        (is_low != was_low).then_some(is_low)
    }
}

/// Looks at the disk from time to time, and after so many bytes.
pub(crate) struct Lookout {
    store: Arc<dyn Store>,
    room: Room,
    health: Arc<watch::Sender<Health>>,
    /// Bytes that are to stay free; `None` is by the size of the disk.
    min_free: Option<u64>,
    next: Timestamp,
    written: u64,
}

impl Lookout {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        health: Arc<watch::Sender<Health>>,
        min_free: Option<u64>,
    ) -> Self {
        Self {
            store,
            room: Room::default(),
            health,
            min_free,
            next: Timestamp::ZERO,
            written: 0,
        }
    }

    pub(crate) fn room(&self) -> Room {
        self.room.clone()
    }

    /// How long to wait for work before the next look: others take room and make some, too.
    pub(crate) fn wait(&self) -> Duration {
        if self.is_low() {
            limits::SPACE_INTERVAL
        } else {
            limits::IDLE_SPACE_INTERVAL
        }
    }

    /// Whether there is too little room.
    pub(crate) fn is_low(&self) -> bool {
        self.room.0.is_low.load(Ordering::Relaxed)
    }

    /// So many bytes were written. Answers as [`look`](Self::look).
    pub(crate) fn note_written(&mut self, bytes: usize, now: Timestamp) -> bool {
        self.written += bytes as u64;
        let is_due = self.written >= limits::SPACE_BYTES || now >= self.next;
        is_due && self.look(now)
    }

    /// Answers whether there is too little room since just now.
    pub(crate) fn look(&mut self, now: Timestamp) -> bool {
        (self.written, self.next) = (0, now + limits::SPACE_INTERVAL);
        let Some(space) = self.store.space() else {
            return false;
        };
        let by_size = (space.total / limits::FREE_SHARE).max(limits::FREE_BYTES);
        let min_free = self.min_free.unwrap_or(by_size);
        let news = self.room.note(space, min_free);
        match news {
            Some(true) => {
                tracing::warn!(
                    free = space.free,
                    min_free,
                    "the disk is nearly full: nothing is published until there is room"
                );
                self.tell(&Health::Serving, Health::DiskLow);
            }
            Some(false) => {
                tracing::info!(free = space.free, "the disk has room again");
                self.tell(&Health::DiskLow, Health::Serving);
            }
            None => {}
        }
        news == Some(true)
    }

    /// Worse things than a lack of room stay as they are.
    fn tell(&self, from: &Health, to: Health) {
        self.health.send_if_modified(|health| {
            let changes = health == from;
            if changes {
                *health = to;
            }
            changes
        });
    }
}

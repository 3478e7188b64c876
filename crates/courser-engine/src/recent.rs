//! The latest messages, in memory: consumers that keep up never read from the disk.

use std::{collections::VecDeque, sync::Arc};

use courser_core::{id::Position, message::Message};

use crate::limits::RECENT_MESSAGES_MAX;

/// A window over the latest positions, bounded by count and bytes; the oldest go first, whoever needs
/// them, so that no message keeps the buffer alive that it came in.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The position of the first item.
    first: Position,
    items: VecDeque<Option<Arc<Message>>>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    pub(crate) fn new(next: Position, bytes_max: usize) -> Self {
        Self {
            first: next,
            items: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the message that comes next; `None` when nobody took it.
    pub(crate) fn push(&mut self, message: Option<Arc<Message>>) {
        self.bytes += bytes(message.as_ref());
        self.items.push_back(message);
        while self.bytes > self.bytes_max || self.items.len() > RECENT_MESSAGES_MAX {
            let Some(oldest) = self.items.pop_front() else {
                break;
            };
            self.bytes -= bytes(oldest.as_ref());
            self.first.0 += 1;
        }
    }

    pub(crate) fn get(&self, position: Position) -> Option<&Arc<Message>> {
        let index = position.0.checked_sub(self.first.0)?;
        self.items.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// Nobody was busy for a while: give the memory back.
    pub(crate) fn clear(&mut self) {
        self.first.0 += self.items.len() as u64;
        self.items = VecDeque::new();
        self.bytes = 0;
    }
}

/// What an item takes beside its place: the message and what is around it.
fn bytes(message: Option<&Arc<Message>>) -> usize {
    message.map_or(0, |message| message.size() as usize + 200)
}

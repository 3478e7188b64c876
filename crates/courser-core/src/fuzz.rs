//! What `tests/fuzz` reaches of the inside: thin wrappers, built only for it.

use std::sync::Arc;

use crate::{
    chunk,
    id::{ChunkNo, QueueId},
    name::Pattern,
    record::{Chunk, ChunkEntry},
    routing::Routing,
};

/// The bindings of a broker.
#[derive(Debug, Default)]
pub struct Routes(Routing);

impl Routes {
    /// Makes a binding.
    pub fn bind(&mut self, pattern: &Pattern, queue: QueueId) {
        self.0.bind(pattern, queue);
    }

    /// Ends a binding.
    pub fn unbind(&mut self, pattern: &Pattern, queue: QueueId) {
        self.0.unbind(pattern, queue);
    }

    /// The queues that a topic goes to.
    pub fn route(&mut self, topic: &str) -> Arc<[QueueId]> {
        self.0.route(topic)
    }
}

/// Counts what the index holds of a chunk, takes it into memory, and says what is there: the entries
/// by place, how many live, and their bytes.
#[must_use]
pub fn load_chunk(number: ChunkNo, kept: &Chunk) -> (Vec<ChunkEntry>, u32, u64) {
    let mut chunk = chunk::Chunk::counted(kept);
    chunk.load(number, kept);
    let entries = chunk.iter(number);
    let entries = entries.map(|(seq, entry)| entry.kept(seq)).collect();
    (entries, chunk.alive, chunk.bytes)
}

//! The numbers by which things are named inside the broker.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The number of a message in the order of commit, over the whole broker. The first is 1.
    Position(u64)
}
number! {
    /// A queue, for as long as it exists. Never given to another queue, also not to one of the same
    /// name.
    QueueId(u32)
}
number! {
    /// An entry's place in its queue. The first is 1. A queue's entries are delivered in this order.
    Seq(u64)
}
number! {
    /// A run of [`CHUNK_ENTRIES`](crate::limits::CHUNK_ENTRIES) neighbouring places of a queue.
    ChunkNo(u64)
}
number! {
    /// A consumer's hold on an entry. Never issued twice; 0 is none.
    LeaseId(u64)
}
number! {
    /// A consumer, for as long as it is connected.
    ConsumerId(u64)
}

impl Seq {
    /// The chunk that this place lies in.
    #[must_use]
    pub const fn chunk(self) -> ChunkNo {
        ChunkNo(self.0 / crate::limits::CHUNK_ENTRIES)
    }
}

impl ChunkNo {
    /// The first place of the chunk; behind the last chunk that there can be, the last place.
    #[must_use]
    pub const fn first(self) -> Seq {
        Seq(self.0.saturating_mul(crate::limits::CHUNK_ENTRIES))
    }
}

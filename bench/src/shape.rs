//! The shape of a load: the same for every system.

use std::time::Duration;

/// Bytes that a consumer or a request has on its way at once, whatever the size of a message.
const BYTES_AT_ONCE: usize = 8 * 1024 * 1024;

/// A load.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// What the queue, exchange, stream or topic is called: warming up has one of its own.
    pub(crate) name: &'static str,
    /// Bytes of a payload.
    pub(crate) size: usize,
    pub(crate) producers: u16,
    /// Of each queue.
    pub(crate) consumers: u16,
    /// Every message goes to each of them.
    pub(crate) queues: u16,
    /// Messages without a confirm, for each producer.
    pub(crate) in_flight: u64,
    pub(crate) publish: Publish,
}

/// How much is published, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Publish {
    /// As fast as confirms allow, for so long.
    For(Duration),
    /// So many a second whether or not there are confirms, for so long.
    Paced { per_second: u64, time: Duration },
    /// As fast as confirms allow, until so many are published or so much time is over.
    UpTo { messages: u64, time: Duration },
    /// Nothing: what is there is consumed.
    Nothing,
}

impl Shape {
    /// Messages that a producer sends before it looks for confirms: equal parts of what may be in flight, so that
    /// all of it is.
    pub(crate) fn batch(&self) -> u64 {
        let fitting = (BYTES_AT_ONCE / self.size).max(1) as u64;
        self.in_flight / self.in_flight.div_ceil(fitting.min(64))
    }

    /// Messages that a consumer may hold, or asks for, at once: `most`, or fewer when they are large.
    pub(crate) fn held(&self, most: usize) -> usize {
        most.min((BYTES_AT_ONCE / self.size).max(2))
    }

    /// The queue's name: the topic's own when there is one queue.
    pub(crate) fn queue(&self, queue: u16) -> String {
        if self.queues == 1 {
            self.name.to_owned()
        } else {
            format!("{}-{queue}", self.name)
        }
    }

    /// What is set up for small messages differs from what is set up for large ones.
    pub(crate) fn is_large(&self) -> bool {
        self.size >= 1024 * 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_equal_parts_of_what_may_be_in_flight() {
        let batch = |size, in_flight| {
            let shape = Shape {
                name: "bench",
                size,
                producers: 1,
                consumers: 1,
                queues: 1,
                in_flight,
                publish: Publish::Nothing,
            };
            shape.batch()
        };
        // Eight requests, 496 messages, where seven of 64 are 448.
        assert_eq!(batch(1_024, 500), 62);
        assert_eq!(batch(1_024, 1), 1);
        assert_eq!(batch(64 * 1024, 64), 64);
        assert_eq!(batch(4 * 1024 * 1024, 4), 2);
        assert_eq!(batch(16 * 1024 * 1024, 4), 1);
    }
}

//! Publishing: which queues take a message, and at which place.

use std::sync::Arc;

use super::Broker;
use crate::{
    error::PublishError,
    id::{Position, QueueId},
    message::NewMessage,
    options::Durability,
    record::Record,
    time::Timestamp,
};

/// Where one message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its number; 0 when no queue took it.
    pub position: Position,
    /// How many queues took it.
    pub queues: u32,
}

/// Where the messages of a request went.
#[derive(Debug, PartialEq, Eq)]
pub struct Placement {
    /// One for each message.
    pub placed: Vec<Placed>,
    /// A queue that took one wants it to be synced before it is confirmed.
    pub sync: bool,
}

impl Broker {
    /// Publishes messages, all or nothing.
    ///
    /// # Errors
    /// `Unroutable` with `mandatory`.
    pub fn publish(
        &mut self,
        now: Timestamp,
        messages: &[NewMessage],
        mandatory: bool,
    ) -> Result<Placement, PublishError> {
        if mandatory {
            self.check_routable(messages)?;
        }
        let mut placement = Placement {
            placed: Vec::with_capacity(messages.len()),
            sync: false,
        };
        let mut routed = None;
        for message in messages {
            let routes = self.route(message, &mut routed);
            let placed = self.place(now, message, routes, &mut placement.sync);
            placement.placed.push(placed);
        }
        Ok(placement)
    }

    fn check_routable(&mut self, messages: &[NewMessage]) -> Result<(), PublishError> {
        let mut routed = None;
        match messages
            .iter()
            .position(|message| self.route(message, &mut routed).is_empty())
        {
            None => Ok(()),
            Some(index) => Err(PublishError::Unroutable {
                index,
                topic: messages[index].topic.to_string(),
            }),
        }
    }

    /// `before` is the topic of the message before and where it goes: most requests have one topic in all their
    /// messages.
    fn route<'r, 'm>(
        &mut self,
        message: &'m NewMessage,
        before: &'r mut Option<(&'m str, Arc<[QueueId]>)>,
    ) -> &'r [QueueId] {
        let topic = &*message.topic;
        let (_, routes) = match before.take() {
            Some(same) if same.0 == topic => before.insert(same),
            _ => before.insert((topic, self.routing.route(topic))),
        };
        routes
    }

    fn place(
        &mut self,
        now: Timestamp,
        message: &NewMessage,
        routes: &[QueueId],
        sync: &mut bool,
    ) -> Placed {
        let size = message.size();
        if routes.is_empty() {
            return Placed {
                position: Position(0),
                queues: 0,
            };
        }
        let position = self.next_position;
        self.next_position.0 += 1;
        for id in routes.iter() {
            let queue = self.queues.get_mut(id).expect("a binding has its queue");
            let entry = queue.enqueue(position, now, size, None);
            queue.totals.published += 1;
            queue.publish_rate.add(now, 1);
            *sync |= queue.definition.options.durability == Durability::Synced;
            self.records.push(Record::Enqueued(*id, entry));
            if !queue.active {
                queue.active = true;
                self.active.push_back(*id);
            }
        }
        self.grown += routes.len() as u64;
        Placed {
            position,
            queues: u32::try_from(routes.len()).unwrap_or(u32::MAX),
        }
    }
}

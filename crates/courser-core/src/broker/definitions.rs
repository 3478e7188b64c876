//! Queues come, change and go.

use std::sync::Arc;

use super::Broker;
use crate::{
    error::QueueError,
    id::{ConsumerId, QueueId, Seq},
    limits,
    name::{DEAD_LETTER_SUFFIX, Pattern},
    options::{OptionError, QueueDefinition, QueueOptions},
    queue::Queue,
    record::Record,
    time::Timestamp,
};

impl Broker {
    /// Makes a queue and its dead-letter queue; `false` when it is there already, with the same
    /// options. Being paused makes no difference: that is a state that people put a queue in.
    ///
    /// # Errors
    /// `Option`, `Exists`, `IsDeadLetterQueue`, `NameTaken`, `TooManyQueues`.
    pub fn create_queue(
        &mut self,
        now: Timestamp,
        name: &str,
        mut options: QueueOptions,
    ) -> Result<bool, QueueError> {
        normalise(&mut options, name)?;
        if let Some(id) = self.id(name) {
            return self.compare(id, &options).map(|()| false);
        }
        let dead_letter_name = self.check_dead_letter_name(name, &options)?;
        self.check_room(1 + usize::from(dead_letter_name.is_some()))?;
        let id = self.next_queue_id();
        let dead_letter_queue = dead_letter_name.map(|name| self.make_dead_letters(now, &name, id));
        self.define(QueueDefinition {
            id,
            name: name.into(),
            options,
            created_at: now,
            dead_letter_of: None,
            dead_letter_queue,
        });
        Ok(true)
    }

    fn check_room(&self, wanted: usize) -> Result<(), QueueError> {
        let max = limits::QUEUES_MAX;
        if self.queues.len() + wanted > max {
            return Err(QueueError::TooManyQueues { max });
        }
        Ok(())
    }

    fn compare(&self, id: QueueId, options: &QueueOptions) -> Result<(), QueueError> {
        let definition = &self.queues[&id].definition;
        self.refuse_dead_letters(definition, "it was made with its queue")?;
        let theirs = QueueOptions {
            paused: definition.options.paused,
            ..options.clone()
        };
        let differences = definition.options.differences(&theirs);
        if differences.is_empty() {
            return Ok(());
        }
        Err(QueueError::Exists {
            name: definition.name.to_string(),
            differences,
        })
    }

    fn check_dead_letter_name(
        &self,
        name: &str,
        options: &QueueOptions,
    ) -> Result<Option<String>, QueueError> {
        if !options.dead_letter {
            return Ok(None);
        }
        let name = format!("{name}{DEAD_LETTER_SUFFIX}");
        if name.len() > limits::NAME_BYTES_MAX {
            let allowed =
                "must have at most 251 bytes, for the name of its dead-letter queue is 4 longer";
            return Err(OptionError {
                field: "name",
                allowed: allowed.to_owned(),
            }
            .into());
        }
        if self.names.contains_key(name.as_str()) {
            return Err(QueueError::NameTaken { name });
        }
        Ok(Some(name))
    }

    fn make_dead_letters(&mut self, now: Timestamp, name: &str, of: QueueId) -> QueueId {
        let id = self.next_queue_id();
        self.define(QueueDefinition {
            id,
            name: name.into(),
            options: QueueOptions::for_dead_letters(),
            created_at: now,
            dead_letter_of: Some(of),
            dead_letter_queue: None,
        });
        id
    }

    fn next_queue_id(&mut self) -> QueueId {
        let id = self.next_queue;
        self.next_queue.0 += 1;
        id
    }

    fn define(&mut self, definition: QueueDefinition) {
        let id = definition.id;
        self.apply_definition(definition.clone());
        self.record(id, Record::QueueDefined(Box::new(definition)));
        self.sync_records = true;
    }

    /// Makes a definition true, whatever was before.
    pub(super) fn apply_definition(&mut self, definition: QueueDefinition) {
        let id = definition.id;
        self.next_queue = self.next_queue.max(QueueId(id.0 + 1));
        self.names.insert(Arc::clone(&definition.name), id);
        self.routing.bind(&Pattern::exact(&definition.name), id);
        for pattern in &definition.options.bindings {
            self.routing.bind(pattern, id);
        }
        match self.queues.get_mut(&id) {
            None => {
                self.queues.insert(id, Queue::new(definition, Seq(1)));
            }
            Some(queue) => {
                let own = Pattern::exact(&definition.name);
                for pattern in &queue.definition.options.bindings {
                    if !definition.options.bindings.contains(pattern) && *pattern != own {
                        self.routing.unbind(pattern, id);
                    }
                }
                queue.definition = definition;
                queue.dirty = true;
            }
        }
        self.activate(id);
    }

    /// Changes options of a queue, live. Leases that are out keep their deadline.
    ///
    /// # Errors
    /// `NotFound`, `Option`, `IsDeadLetterQueue`, `NotEmpty` (its dead letters), `NameTaken`,
    /// `TooManyQueues`.
    pub fn update_queue(
        &mut self,
        now: Timestamp,
        name: &str,
        change: impl FnOnce(&mut QueueOptions),
    ) -> Result<(), QueueError> {
        let id = self.find(name)?;
        let mut definition = self.queues[&id].definition.clone();
        change(&mut definition.options);
        normalise(&mut definition.options, name)?;
        if definition.options == self.queues[&id].definition.options {
            return Ok(());
        }
        if definition.dead_letter_of.is_some() && definition.options.dead_letter {
            self.refuse_dead_letters(&definition, "it has none of its own")?;
        }
        match (definition.dead_letter_queue, definition.options.dead_letter) {
            (None, true) => {
                let name = self.check_dead_letter_name(name, &definition.options)?;
                self.check_room(1)?;
                definition.dead_letter_queue =
                    name.map(|name| self.make_dead_letters(now, &name, id));
            }
            (Some(dead_letters), false) => {
                self.check_empty(name, None, Some(dead_letters))?;
                self.remove_queue(dead_letters);
                definition.dead_letter_queue = None;
            }
            _ => {}
        }
        self.define(definition);
        Ok(())
    }

    /// Deletes a queue and its dead-letter queue with everything in them; answers how many entries
    /// went with each.
    ///
    /// # Errors
    /// `NotFound`, `IsDeadLetterQueue`, `NotEmpty` when it was to be empty.
    pub fn delete_queue(&mut self, name: &str, if_empty: bool) -> Result<(u64, u64), QueueError> {
        let id = self.find(name)?;
        let definition = &self.queues[&id].definition;
        self.refuse_dead_letters(definition, "it goes when its queue is deleted")?;
        let dead_letters = definition.dead_letter_queue;
        if if_empty {
            self.check_empty(name, Some(id), dead_letters)?;
        }
        let dead = dead_letters.map_or(0, |id| self.remove_queue(id));
        Ok((self.remove_queue(id), dead))
    }

    fn remove_queue(&mut self, id: QueueId) -> u64 {
        self.record(id, Record::QueueDeleted { queue: id });
        self.sync_records = true;
        self.apply_deletion(id)
    }

    /// Forgets a queue and everything in it; answers how many entries it had.
    pub(super) fn apply_deletion(&mut self, id: QueueId) -> u64 {
        let Some(queue) = self.queues.remove(&id) else {
            return 0;
        };
        let definition = queue.definition;
        if self.names.get(&definition.name) == Some(&id) {
            self.names.remove(&definition.name);
        }
        self.routing.unbind(&Pattern::exact(&definition.name), id);
        for pattern in &definition.options.bindings {
            self.routing.unbind(pattern, id);
        }
        for consumer in queue.consumers {
            if let Some(of) = self.consumers.remove(&consumer) {
                self.free_room(of.unsent_bytes());
            }
            self.ended.push(consumer);
        }
        self.leases.forget_queue(id, &queue.leases);
        self.deleted_queues.insert(id);
        queue.alive
    }

    fn check_empty(
        &self,
        name: &str,
        queue: Option<QueueId>,
        dead_letters: Option<QueueId>,
    ) -> Result<(), QueueError> {
        let alive = |id: Option<QueueId>| {
            id.and_then(|id| self.queues.get(&id))
                .map_or(0, |queue| queue.alive)
        };
        let (entries, dead_letters) = (alive(queue), alive(dead_letters));
        if entries == 0 && dead_letters == 0 {
            return Ok(());
        }
        Err(QueueError::NotEmpty {
            name: name.to_owned(),
            entries,
            dead_letters,
        })
    }

    pub(super) fn refuse_dead_letters(
        &self,
        definition: &QueueDefinition,
        why: &'static str,
    ) -> Result<(), QueueError> {
        let Some(of) = definition.dead_letter_of else {
            return Ok(());
        };
        let of = self
            .queues
            .get(&of)
            .map(|queue| queue.definition.name.to_string());
        let (name, of) = (definition.name.to_string(), of.unwrap_or_default());
        Err(QueueError::IsDeadLetterQueue { name, of, why })
    }

    pub(super) fn find(&self, name: &str) -> Result<QueueId, QueueError> {
        self.id(name).ok_or_else(|| QueueError::NotFound {
            name: name.to_owned(),
        })
    }

    /// Whether this consumer is still there.
    #[must_use]
    pub fn is_consumer(&self, consumer: ConsumerId) -> bool {
        self.consumers.contains_key(&consumer)
    }
}

/// Bindings sorted and each once, without the one that every queue has; all options checked.
fn normalise(options: &mut QueueOptions, name: &str) -> Result<(), OptionError> {
    options.bindings.retain(|pattern| pattern.as_str() != name);
    options.bindings.sort_unstable();
    options.bindings.dedup();
    options.check()
}

//! All that is wrong with a folder.

use std::{collections::BTreeMap, path::Path};

use courser_core::id::QueueId;

use super::{
    DAMAGES_TOLD, Damage, Torn,
    living::Living,
    survey::{Survey, Trust},
};
use crate::StoreError;

/// What is in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFigures {
    /// Segments.
    pub segments: u64,
    /// Files that wait to become segments. They hold nothing, so nothing in them is looked at.
    pub spares: u64,
    /// Bytes of the segments.
    pub bytes: u64,
    /// Frames that are what was written.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Messages that can be read.
    pub messages: u64,
}

/// What lives in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueFigures {
    /// Its name.
    pub name: String,
    /// Entries.
    pub entries: u64,
    /// Of these, how many have a message that cannot be read.
    pub unreadable: u64,
    /// Bytes of the messages of all entries.
    pub bytes: u64,
}

/// What was found in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The first hundred damages.
    pub damages: Vec<Damage>,
    /// How many there are.
    pub damaged: u64,
    /// The end that a crash left. It is no damage.
    pub torn: Option<Torn>,
    /// The log.
    pub log: LogFigures,
    /// Values of the index.
    pub index_values: u64,
    /// The frame up to which the index has the log.
    pub index_upto: u64,
    /// What lives, by queue. Empty when the index is damaged: then the log alone does not tell.
    pub queues: Vec<QueueFigures>,
}

/// Looks at all of a folder that no broker uses. Nothing in it is changed.
///
/// # Errors
/// When it is no data folder, a broker uses it, or it cannot be looked at. Damage is no error.
pub fn verify(root: &Path) -> Result<Verified, StoreError> {
    let mut survey = Survey::of(root)?;
    let queues = match survey.trust {
        Trust::Index => count(&mut survey)?,
        Trust::Log => Vec::new(),
    };
    Ok(Verified {
        damaged: survey.findings.count,
        damages: survey.findings.told,
        torn: survey.torn,
        log: survey.log,
        index_values: survey.index.keys,
        index_upto: survey.meta.upto,
        queues,
    })
}

/// Counts what lives, and finds entries whose message cannot be read.
fn count(survey: &mut Survey) -> Result<Vec<QueueFigures>, StoreError> {
    let mut queues: BTreeMap<QueueId, QueueFigures> = names(survey)
        .into_iter()
        .map(|(id, name)| {
            let figures = QueueFigures {
                name,
                ..QueueFigures::default()
            };
            (id, figures)
        })
        .collect();
    // Told one by one up to a bound, the rest only counted.
    let (mut unreadable, mut untold) = (Vec::new(), 0);
    let mut changes = std::mem::take(&mut survey.changes);
    let mut add = |id: QueueId, living: &Living| {
        // Left of a queue that was being deleted: the next start removes it.
        let Some(queue) = queues.get_mut(&id) else {
            return;
        };
        queue.entries += 1;
        queue.bytes += u64::from(living.entry.size);
        if !survey.readable.contains(living.entry.position.0) {
            queue.unreadable += 1;
            if unreadable.len() < DAMAGES_TOLD {
                unreadable.push((queue.name.clone(), living.entry.seq, living.entry.position));
            } else {
                untold += 1;
            }
        }
    };
    if let Some(index) = &survey.folder.index {
        index.readable_chunks(&mut |id, _, chunk| {
            changes.merge(id, chunk).iter().for_each(|one| add(id, one));
            Ok(())
        })?;
    }
    changes.rest().for_each(|(id, living)| add(id, &living));
    survey.findings.count += untold;
    for (name, seq, position) in unreadable {
        let path = survey.file_of(position.0);
        let holds = format!("message {position}, which is entry {seq} of queue {name}");
        let why = "it lives, and cannot be read";
        survey.findings.add(Damage {
            path,
            offset: None,
            holds,
            why: why.to_owned(),
            remedy: super::RESTORE.to_owned(),
        });
    }
    Ok(queues.into_values().collect())
}

/// The names of all queues that are known.
pub(super) fn names(survey: &Survey) -> BTreeMap<QueueId, String> {
    let of_index = survey.index.queues.iter().map(|state| &state.definition);
    let of_log = survey.changes.queues.values();
    of_index
        .chain(of_log)
        .filter(|definition| !survey.changes.is_deleted(definition.id))
        .map(|definition| (definition.id, definition.name.to_string()))
        .collect()
}

//! `courser dlq`: what failed for good, why, and the way back.

mod redrive;

use std::io;

use clap::Subcommand;
use courser_client::{Client, from_wire_duration, wire};

use self::redrive::Redrive;
use crate::cli::{
    output::{Format, Output, Table},
    queue::{self, Range, preview, print_purged},
    value::{self, age, number},
    wording::Flags,
};

/// What a dead-letter queue's name ends with.
const SUFFIX: &str = ".dlq";

/// The flags that the broker looks at.
pub(super) const FLAGS: Flags = &[("to", "--to"), ("reason", "--reason")];

/// Look at dead letters and bring them back.
#[derive(Debug, Subcommand)]
pub(super) enum Dlq {
    /// Show all dead-letter queues.
    #[command(alias = "ls")]
    List,
    /// Show dead letters: why they are there, and what was tried.
    Show {
        /// The queue whose dead letters these are, or its dead-letter queue.
        queue: String,
        #[command(flatten)]
        range: Range,
    },
    /// Move dead letters back to the queue they came from.
    Redrive(Redrive),
    /// Remove dead letters for good, oldest first.
    Purge {
        /// The queue whose dead letters these are, or its dead-letter queue.
        queue: String,
        /// So many at most; all when left out.
        #[arg(long, value_parser = value::positive)]
        limit: Option<u64>,
    },
}

impl Dlq {
    /// Whether it takes no longer for a queue that holds a lot.
    pub(super) fn is_short(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. })
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::List => {
                let mut queues = client.list_queues("").await?;
                queues.retain(|queue| !queue.dead_letter_of.is_empty());
                print_queues(output, &queues)?;
            }
            Self::Show { queue, range } => {
                let entries = client
                    .peek_entries(range.request(dead_letter_queue(&queue)))
                    .await?;
                print_entries(output, &entries)?;
            }
            Self::Redrive(redrive) => redrive.run(client, output).await?,
            Self::Purge { queue, limit } => {
                let queue = dead_letter_queue(&queue);
                print_purged(output, client.purge_queue(queue, limit.unwrap_or(0)).await?)?;
            }
        }
        output.finish()?;
        Ok(())
    }
}

/// The dead-letter queue of `queue`, which may be one itself.
fn dead_letter_queue(queue: &str) -> String {
    if queue.ends_with(SUFFIX) {
        queue.to_owned()
    } else {
        format!("{queue}{SUFFIX}")
    }
}

fn print_queues(output: &mut Output, queues: &[wire::Queue]) -> io::Result<()> {
    if output.format != Format::Table {
        return output.list("queues", queues);
    }
    let mut table = Table::new(&["NAME", "DEAD LETTERS OF", ">ENTRIES", ">OLDEST"]);
    for queue in queues {
        let stats = queue.stats.clone().unwrap_or_default();
        let oldest = stats
            .oldest_ready_age
            .as_ref()
            .map(|oldest| age(from_wire_duration(oldest)));
        table.row([
            queue.name.clone(),
            queue.dead_letter_of.clone(),
            number(stats.ready + stats.delayed + stats.leased),
            oldest.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output.table(&table)
}

fn print_entries(output: &mut Output, entries: &[wire::Entry]) -> io::Result<()> {
    if output.format != Format::Table {
        return queue::print_entries(output, entries);
    }
    if entries.is_empty() {
        return output.line("no dead letters");
    }
    let mut table = Table::new(&[
        ">ENTRY",
        "TOPIC",
        "MESSAGE",
        "REASON",
        ">ATTEMPTS",
        "LAST ERROR",
    ]);
    for entry in entries {
        let message = entry.message.clone().unwrap_or_default();
        let dead = entry.dead_letter.clone().unwrap_or_default();
        let last = entry
            .attempts
            .last()
            .map_or("", |attempt| attempt.error.as_str());
        let said = if dead.description.is_empty() {
            last
        } else {
            &dead.description
        };
        table.row([
            entry.entry_id.to_string(),
            message.topic,
            message.id,
            dead.reason,
            entry.attempts.len().to_string(),
            preview(said),
        ]);
    }
    output.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_mean_the_dead_letter_queue() {
        assert_eq!(dead_letter_queue("orders"), "orders.dlq");
        assert_eq!(dead_letter_queue("orders.dlq"), "orders.dlq");
    }
}

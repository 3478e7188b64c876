//! `courser dlq redrive`: in steps, so that what failed together does not hit its consumers together.

use std::time::Duration;

use courser_client::{Client, wire::RedriveEntriesRequest};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::dead_letter_queue;
use crate::cli::{
    output::{Format, Output},
    value::{self, number},
};

/// Steps of a second: a step is small enough to look steady to consumers.
const STEPS_PER_SECOND: u64 = 10;
/// Faster than any broker, and slow enough to be counted.
const RATE_MAX: u64 = 1_000_000;
/// Entry ids that the broker takes in one request.
const ENTRIES_MAX: usize = 1_000;

/// Move dead letters back to the queue they came from.
///
/// At most what is there at the start is moved: an entry that fails again is not moved again.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Redrive {
    /// The queue whose dead letters these are, or its dead-letter queue.
    queue: String,
    /// So many at most; all when left out.
    #[arg(long, value_parser = value::positive)]
    limit: Option<u64>,
    /// Move them to this queue instead.
    #[arg(
        long,
        value_name = "QUEUE",
        default_value = "",
        hide_default_value = true
    )]
    to: String,
    /// Only this entry; may be repeated.
    #[arg(long = "entry", value_name = "ENTRY", value_parser = value::whole)]
    entries: Vec<u64>,
    /// Only entries with this reason.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Count them and move none.
    #[arg(long)]
    dry_run: bool,
    /// Entries a second; 0 is no limit.
    #[arg(
        long,
        value_name = "PER SECOND",
        default_value_t = 500,
        value_parser = clap::value_parser!(u64).range(..=RATE_MAX)
    )]
    rate: u64,
}

impl Redrive {
    pub(super) async fn run(&self, client: &Client, output: &mut Output) -> anyhow::Result<()> {
        let total = self.count(client).await?;
        let moved = if self.dry_run {
            total
        } else {
            self.redrive(client, total).await?
        };
        match output.format {
            Format::Table if self.dry_run => {
                output.line(&format!("would redrive {}", number(moved)))?;
            }
            Format::Table => output.line(&format!("redrove {}", number(moved)))?,
            Format::Json | Format::Ndjson => output.json(&json!({ "redriven": moved }))?,
        }
        Ok(())
    }

    fn request(&self, entry_ids: &[u64], limit: u64, dry_run: bool) -> RedriveEntriesRequest {
        RedriveEntriesRequest {
            queue: dead_letter_queue(&self.queue),
            to: self.to.clone(),
            limit,
            entry_ids: entry_ids.to_vec(),
            reason: self.reason.clone(),
            dry_run,
            after_entry_id: 0,
        }
    }

    /// What is there now, and would be moved.
    async fn count(&self, client: &Client) -> anyhow::Result<u64> {
        let limit = self.limit.unwrap_or(0);
        if self.entries.is_empty() {
            let request = self.request(&[], limit, true);
            return Ok(client.redrive_entries(request).await?.redriven);
        }
        let mut total = 0;
        for entries in self.entries.chunks(ENTRIES_MAX) {
            let request = self.request(entries, limit, true);
            total += client.redrive_entries(request).await?.redriven;
        }
        Ok(self.limit.map_or(total, |limit| total.min(limit)))
    }

    async fn redrive(&self, client: &Client, total: u64) -> anyhow::Result<u64> {
        let step = match self.rate {
            0 => ENTRIES_MAX as u64,
            rate => rate.div_ceil(STEPS_PER_SECOND).min(ENTRIES_MAX as u64),
        };
        let mut steps = Pace::new(self.rate, step);
        let bar = bar(total);
        let (mut moved, mut after_entry_id) = (0, 0);
        if self.entries.is_empty() {
            while moved < total {
                steps.next().await;
                let request = RedriveEntriesRequest {
                    after_entry_id,
                    ..self.request(&[], step.min(total - moved), false)
                };
                let stepped = client.redrive_entries(request).await?;
                if stepped.redriven == 0 {
                    break;
                }
                moved += stepped.redriven;
                after_entry_id = stepped.last_entry_id;
                bar.set_position(moved);
            }
        } else {
            for entries in self.entries.chunks(usize::try_from(step)?) {
                if moved >= total {
                    break;
                }
                steps.next().await;
                let request = self.request(entries, total - moved, false);
                moved += client.redrive_entries(request).await?.redriven;
                bar.set_position(moved);
            }
        }
        bar.finish_and_clear();
        Ok(moved)
    }
}

/// Lets a step happen when it is due. The first one is at once.
struct Pace(Option<tokio::time::Interval>);

impl Pace {
    fn new(rate: u64, step: u64) -> Self {
        if rate == 0 {
            return Self(None);
        }
        #[allow(clippy::cast_precision_loss, reason = "both are small")]
        let mut interval = interval(Duration::from_secs_f64(step as f64 / rate as f64));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(Some(interval))
    }

    async fn next(&mut self) {
        if let Some(interval) = &mut self.0 {
            interval.tick().await;
        }
    }
}

/// Drawn on stderr, and only when that is a terminal.
fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {eta} left");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

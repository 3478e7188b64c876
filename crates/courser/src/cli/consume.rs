//! `courser consume`
//!
//! It pulls rather than subscribes: a pull takes exactly as many entries as are still wanted, while a
//! subscription would be given more than it settles, and would fail them when it leaves.

use std::{io, pin::pin, time::Duration};

use anyhow::bail;
use courser_client::{
    Client, ConsumerOptions, to_wire_duration,
    wire::{self, Delivery, Nack, Reject, Settle},
};
use tokio::{
    signal,
    time::{Instant, timeout},
};

use crate::cli::{
    output::{Format, Output, to_json, utf8_or_base64},
    value,
};

/// Entries taken at once when no count is given.
const BATCH: u64 = 100;
/// Messages held until the end with --release: less than the broker settles in one request.
const HELD_MAX: usize = 9_000;
/// Bytes taken at once.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// The longest wait that the broker grants one pull.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Take messages from a queue and settle them.
#[derive(Debug, clap::Args)]
pub(super) struct Consume {
    /// The queue.
    queue: String,
    /// End after so many messages.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Done with each: the default.
    #[arg(long, group = "verb")]
    ack: bool,
    /// Fail each: it comes again, or is dead-lettered after its last attempt.
    #[arg(long, group = "verb")]
    nack: bool,
    /// Give all back without blame, at the end: until then they are not seen twice.
    #[arg(long, group = "verb", conflicts_with = "follow")]
    release: bool,
    /// Give up on each, with a short reason.
    #[arg(long, group = "verb", value_name = "REASON")]
    dead_letter: Option<String>,
    /// With --nack: when it comes again, instead of the queue's backoff.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, requires = "nack")]
    retry_after: Option<Duration>,
    /// With --nack or --dead-letter: what went wrong, for the history of the entry.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    error: String,
    /// Never end by itself.
    #[arg(long)]
    follow: bool,
    /// How long to wait for the next message before ending.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, default_value = "5s",
          conflicts_with = "follow")]
    wait: Duration,
    /// How long each may stay unsettled, instead of the queue's lease.
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    lease: Option<Duration>,
    /// The name that stats and the history of attempts show.
    #[arg(long, value_name = "NAME", default_value = "courser-cli")]
    consumer: String,
}

impl Consume {
    pub(super) async fn run(&self, client: &Client, output: &mut Output) -> anyhow::Result<()> {
        let mut interrupted = pin!(signal::ctrl_c());
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut held = Vec::new();
        while left > 0 && held.len() < HELD_MAX {
            let deliveries = tokio::select! {
                deliveries = self.pull(client, left) => deliveries?,
                _ = &mut interrupted => break,
            };
            if deliveries.is_empty() {
                break;
            }
            left -= deliveries.len() as u64;
            let leases = deliveries.iter().map(|delivery| delivery.lease_id);
            if let Err(error) = self.print(output, &deliveries) {
                // Nobody saw them, for example because `head` had enough.
                let release = Settle {
                    release: leases.collect(),
                    ..Settle::default()
                };
                settle(client, release).await?;
                return Err(error.into());
            }
            if self.release {
                held.extend(leases);
            } else {
                settle(client, self.settlements(leases)).await?;
            }
        }
        if !held.is_empty() {
            settle(
                client,
                Settle {
                    release: held,
                    ..Settle::default()
                },
            )
            .await?;
        }
        Ok(())
    }

    /// The next deliveries; none when there were none for `wait`.
    async fn pull(&self, client: &Client, left: u64) -> anyhow::Result<Vec<Delivery>> {
        let options = ConsumerOptions {
            queue: self.queue.clone(),
            consumer: self.consumer.clone(),
            max_messages: u32::try_from(left.min(BATCH))?,
            max_bytes: BATCH_BYTES,
            lease: self.lease,
            auto_ack: false,
        };
        let end = Instant::now() + self.wait;
        loop {
            let wait = if self.follow {
                WAIT_MAX
            } else {
                end.saturating_duration_since(Instant::now())
            };
            let deliveries = client.pull(options.clone(), wait.min(WAIT_MAX)).await?;
            if !deliveries.is_empty() || (!self.follow && Instant::now() >= end) {
                return Ok(deliveries);
            }
        }
    }

    fn print(&self, output: &mut Output, deliveries: &[Delivery]) -> io::Result<()> {
        for delivery in deliveries {
            match output.format {
                Format::Table => print_for_people(output, delivery)?,
                Format::Json | Format::Ndjson => output.json_line(&to_json(delivery))?,
            }
        }
        // Seen before it is settled: what was acked must not be lost in a buffer.
        output.finish()
    }

    fn settlements(&self, leases: impl Iterator<Item = u64>) -> Settle {
        let mut settle = Settle::default();
        if let Some(reason) = &self.dead_letter {
            settle.dead_letter.extend(leases.map(|lease_id| Reject {
                lease_id,
                reason: reason.clone(),
                description: self.error.clone(),
            }));
        } else if self.nack {
            settle.nack.extend(leases.map(|lease_id| Nack {
                lease_id,
                retry_after: self.retry_after.map(to_wire_duration),
                error: self.error.clone(),
            }));
        } else {
            settle.ack.extend(leases);
        }
        settle
    }
}

async fn settle(client: &Client, settle: Settle) -> anyhow::Result<()> {
    // A connection that hangs must not hang this command for ever; the leases run out by themselves.
    match timeout(WAIT_MAX, client.settle(settle)).await {
        Ok(settled) => tell_refusals(&settled?),
        Err(_) => bail!("the broker did not say whether the messages were settled"),
    }
}

fn tell_refusals(settled: &wire::Settled) -> anyhow::Result<()> {
    let Some(first) = settled.refused.first() else {
        return Ok(());
    };
    let count = settled.refused.len();
    let error = courser_client::Error::from(first.clone());
    if count == 1 {
        return Err(error.into());
    }
    Err(anyhow::Error::from(error).context(format!("{count} messages were not settled; the first")))
}

fn print_for_people(output: &mut Output, delivery: &Delivery) -> io::Result<()> {
    let Some(message) = &delivery.message else {
        return Ok(());
    };
    if !output.terminal {
        return output.raw(&message.payload);
    }
    let mut header = format!(
        "{}  {}  attempt {}",
        message.topic, message.id, delivery.attempt
    );
    let mut headers: Vec<_> = message.headers.iter().collect();
    headers.sort();
    for (key, value) in headers {
        header.push_str(&format!("  {key}={value}"));
    }
    output.dimmed(&header)?;
    match utf8_or_base64(&message.payload) {
        ("", text) => output.line(&text),
        (_, base64) => output.line(&format!(
            "{} bytes, as base64: {base64}",
            message.payload.len()
        )),
    }
}

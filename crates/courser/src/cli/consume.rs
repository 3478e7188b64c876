//! `courser consume`
//!
//! It subscribes, so that what it holds goes back at once when it is killed. With a count it asks for
//! so many and no more; what came and was not printed it gives back without blame. What it holds until
//! the end it extends in time, or it would see it twice.

use std::{
    cell::RefCell,
    convert::Infallible,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use courser_client::{
    Client, Consumer, ConsumerOptions, Delivery, from_wire_duration, to_wire_duration,
    wire::{self, Extend, Nack, Queue, Reject, Settle},
};
use tokio::{
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    time::{sleep, timeout},
};

use crate::cli::{
    output::{Format, Output, printable, printable_lines, utf8_or_base64},
    usage, value,
    wording::Flags,
};

/// Messages on their way at once.
const BATCH: u32 = 100;
/// Messages held until the end with --release: as many as the broker settles in one request.
const HELD_MAX: u32 = 10_000;
/// Their bytes: as many as the broker lets one consumer hold.
const HELD_BYTES: u64 = 256 * 1024 * 1024;
/// The longest delay that a nack may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of a dead-letter reason.
const REASON_BYTES_MAX: usize = 64;
/// How long the broker may take to settle.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);
/// The shortest lease that the broker gives.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// How long giving back the rest may take at the end.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// The flags that the broker looks at.
pub(super) const FLAGS: Flags = &[("consumer", "--consumer"), ("lease", "--lease")];

/// Take messages from a queue and settle them.
#[derive(Debug, clap::Args)]
pub(super) struct Consume {
    /// The queue.
    queue: String,
    /// End after so many messages.
    #[arg(long, value_parser = value::positive)]
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
    #[arg(long, value_name = "DURATION", value_parser = value::duration, allow_hyphen_values = true, requires = "nack")]
    retry_after: Option<Duration>,
    /// With --nack or --dead-letter: what went wrong, for the history of the entry.
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Never end by itself.
    #[arg(long)]
    follow: bool,
    /// How long to wait for the next message before ending.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, allow_hyphen_values = true, default_value = "5s",
          conflicts_with = "follow")]
    wait: Duration,
    /// How long each may stay unsettled, instead of the queue's lease.
    #[arg(long, value_name = "DURATION", value_parser = value::duration, allow_hyphen_values = true)]
    lease: Option<Duration>,
    /// The name that stats and the history of attempts show.
    #[arg(long, value_name = "NAME", default_value = "courser-cli")]
    consumer: String,
}

/// What was taken so far.
struct Taken<'a> {
    /// How many are still wanted.
    left: u64,
    /// The last one takes; the others only hold.
    consumers: Vec<Consumer>,
    /// Leases to be released at the end.
    held: &'a RefCell<Vec<u64>>,
}

impl Taken<'_> {
    fn is_full(&self) -> bool {
        self.left == 0 || self.held.borrow().len() >= HELD_MAX as usize
    }
}

impl Consume {
    /// What the broker would refuse of a settlement must not take a message first.
    fn check(&self) -> anyhow::Result<()> {
        if self.error.is_some() && !self.nack && self.dead_letter.is_none() {
            return Err(usage("--error needs --nack or --dead-letter"));
        }
        if self
            .retry_after
            .is_some_and(|after| after > RETRY_AFTER_MAX)
        {
            return Err(usage("--retry-after must be from 0s to 24h"));
        }
        let reason = self.dead_letter.as_ref().map_or(1, String::len);
        if !(1..=REASON_BYTES_MAX).contains(&reason) {
            let allowed = format!("--dead-letter needs a reason of 1 to {REASON_BYTES_MAX} bytes");
            return Err(usage(allowed));
        }
        Ok(())
    }

    pub(super) async fn run(&self, client: &Client, output: &mut Output) -> anyhow::Result<()> {
        self.check()?;
        let queue = client.get_queue(&self.queue).await?;
        if self.dead_letter.is_some() && queue.dead_letter_queue.is_empty() {
            bail!("{} has no dead-letter queue", queue.name);
        }
        tell_if_paused(&queue);
        let held = RefCell::default();
        let mut taken = Taken {
            left: self.count.unwrap_or(u64::MAX),
            consumers: Vec::new(),
            held: &held,
        };
        let result = tokio::select! {
            result = self.take(client, output, &mut taken) => result,
            result = keep(client, &held, self.lease_of(&queue)) => result.map(|never| match never {}),
            () = interrupted() => Ok(()),
        };
        let released = release(client, held.take()).await;
        for consumer in taken.consumers {
            // A connection that hangs must not hang this command for ever; the broker gives back what
            // the consumer held once it notices.
            drop(timeout(CLOSE_TIME_MAX, consumer.close()).await);
        }
        result.and(released)
    }

    async fn take(
        &self,
        client: &Client,
        output: &mut Output,
        taken: &mut Taken<'_>,
    ) -> anyhow::Result<()> {
        loop {
            let left = taken.left;
            let consumer = client.consumer(self.options(left)).await?;
            taken.consumers.push(consumer);
            self.take_from_last(client, output, taken).await?;
            // Without a wait, one subscription gives only what the broker has at hand.
            if !self.wait.is_zero() || taken.left == left || taken.is_full() {
                return Ok(());
            }
        }
    }

    fn options(&self, left: u64) -> ConsumerOptions {
        let credit = if self.release { HELD_MAX } else { BATCH };
        ConsumerOptions {
            queue: self.queue.clone(),
            consumer: self.consumer.clone(),
            max_messages: u32::try_from(left).map_or(credit, |left| left.min(credit)),
            max_bytes: if self.release { HELD_BYTES } else { 0 },
            lease: self.lease,
            auto_ack: false,
            limit: self.count.map_or(0, |_| left),
        }
    }

    /// How long each delivery is leased.
    fn lease_of(&self, queue: &Queue) -> Duration {
        let options = queue.options.as_ref();
        let lease = options.and_then(|options| options.lease.as_ref());
        let lease = self.lease.or_else(|| lease.map(from_wire_duration));
        lease.unwrap_or_default().max(LEASE_MIN)
    }

    /// Takes from the consumer that came last, until there was nothing for `wait`.
    async fn take_from_last(
        &self,
        client: &Client,
        output: &mut Output,
        taken: &mut Taken<'_>,
    ) -> anyhow::Result<()> {
        if self.wait.is_zero()
            && let Some(consumer) = taken.consumers.last()
        {
            consumer.drain();
        }
        while !taken.is_full()
            && let Some(consumer) = taken.consumers.last_mut()
        {
            let deliveries = if self.follow || self.wait.is_zero() {
                consumer.next_batch().await?
            } else {
                let next = timeout(self.wait, consumer.next_batch()).await;
                next.unwrap_or(Ok(None))?
            };
            let Some(deliveries) = deliveries else {
                break;
            };
            taken.left = taken.left.saturating_sub(deliveries.len() as u64);
            let leases = || deliveries.iter().map(|delivery| delivery.lease_id);
            if let Err(error) = self.print(output, &deliveries) {
                // Nobody saw them, for example because `head` had enough.
                release(client, leases().collect()).await?;
                return Err(error.into());
            }
            if self.release {
                taken.held.borrow_mut().extend(leases());
            } else {
                settle(client, self.settlements(leases())).await?;
            }
        }
        Ok(())
    }

    fn print(&self, output: &mut Output, deliveries: &[Delivery]) -> io::Result<()> {
        for delivery in deliveries {
            match output.format {
                Format::Table => print_for_people(output, delivery)?,
                Format::Json | Format::Ndjson => output.message::<wire::Delivery>(delivery)?,
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
                description: self.error.clone().unwrap_or_default(),
            }));
        } else if self.nack {
            settle.nack.extend(leases.map(|lease_id| Nack {
                lease_id,
                retry_after: self.retry_after.map(to_wire_duration),
                error: self.error.clone().unwrap_or_default(),
            }));
        } else {
            settle.ack.extend(leases);
        }
        settle
    }
}

/// Ctrl-C, or a word from whoever manages this process.
async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = ctrl_c() => {}
                _ = terminated.recv() => {}
            }
        }
        Err(_) => drop(ctrl_c().await),
    }
}

/// A paused queue gives nothing, and says nothing: the reader wonders.
fn tell_if_paused(queue: &Queue) {
    if queue
        .options
        .as_ref()
        .is_some_and(|options| options.paused == Some(true))
    {
        let name = &queue.name;
        let note =
            format!("note: {name} is paused: nothing comes until `courser queue resume {name}`");
        // Whether somebody reads it or not.
        let _ = writeln!(io::stderr(), "{note}");
    }
}

/// Extends what is held whenever half of its lease is over.
async fn keep(
    client: &Client,
    held: &RefCell<Vec<u64>>,
    lease: Duration,
) -> anyhow::Result<Infallible> {
    loop {
        sleep(lease / 2).await;
        let extend = |lease_id: &u64| Extend {
            lease_id: *lease_id,
            by: Some(to_wire_duration(lease)),
        };
        let extend: Vec<_> = held.borrow().iter().map(extend).collect();
        if !extend.is_empty() {
            let extend = Settle {
                extend,
                ..Settle::default()
            };
            let extended = settle(client, extend).await;
            extended.context("the messages cannot be held any longer")?;
        }
    }
}

async fn release(client: &Client, leases: Vec<u64>) -> anyhow::Result<()> {
    if leases.is_empty() {
        return Ok(());
    }
    let release = Settle {
        release: leases,
        ..Settle::default()
    };
    settle(client, release).await
}

async fn settle(client: &Client, settle: Settle) -> anyhow::Result<()> {
    // A connection that hangs must not hang this command for ever.
    match timeout(SETTLE_TIME_MAX, client.settle(settle)).await {
        Ok(settled) => tell_refusals(&settled?),
        Err(_) => bail!("the broker did not say whether the messages were settled"),
    }
}

fn tell_refusals(settled: &wire::Settled) -> anyhow::Result<()> {
    let Some(first) = settled.refused.first() else {
        return Ok(());
    };
    let count = settled.refused.len() as u64;
    let error = courser_client::Error::from(first.clone());
    if count == 1 {
        return Err(error.into());
    }
    let several = format!(
        "{} messages were not settled; the first",
        value::number(count)
    );
    Err(anyhow::Error::from(error).context(several))
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
    output.dimmed(&printable(&header))?;
    match utf8_or_base64(&message.payload) {
        ("", text) => output.line(&printable_lines(&text)),
        (_, base64) => {
            let bytes = value::count(message.payload.len() as u64, "byte", "bytes");
            output.line(&format!("{bytes}, as base64: {base64}"))
        }
    }
}

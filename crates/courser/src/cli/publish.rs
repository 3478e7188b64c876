//! `courser publish`

mod feed;
pub(super) mod salvaged;

use std::{
    fs::File,
    io::{self, BufRead as _, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use bytes::Bytes;
use courser_client::{Client, Message, PublishResult, PublisherOptions, wire};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::mpsc,
    task,
};

use self::feed::Feed;
use crate::cli::{
    output::{Format, Output, printable},
    usage, value,
    wording::Flags,
};

/// Lines that are read ahead of the one that is published: a line can have 86 MiB, a message of 64 MiB in base64.
const LINES_AHEAD: usize = 1;

/// The flags that are fields of a message.
const FLAGS: Flags = &[
    ("id", "--id"),
    ("headers", "--header"),
    ("type", "--type"),
    ("source", "--source"),
    ("content_type", "--content-type"),
    ("schema_version", "--schema-version"),
    ("correlation_id", "--correlation-id"),
    ("causation_id", "--causation-id"),
];

/// Publish messages to a topic.
#[derive(Debug, clap::Args)]
pub(super) struct Publish {
    /// What it is about, for example `order.created`; or the name of a queue.
    #[arg(required_unless_present = "from_salvage")]
    topic: Option<String>,
    /// What it says; `-` reads standard input. Empty when left out.
    #[arg(allow_hyphen_values = true)]
    payload: Option<String>,
    /// A header; may be repeated.
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = value::pair)]
    headers: Vec<(String, String)>,
    /// The id; the broker makes one when it is left out.
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// What kind of message it is.
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "",
        hide_default_value = true
    )]
    kind: String,
    /// Who says it.
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    /// What the payload is, for example `application/json`.
    #[arg(long, default_value = "", hide_default_value = true)]
    content_type: String,
    /// Which version of its type the payload has.
    #[arg(long, default_value = "", hide_default_value = true)]
    schema_version: String,
    /// What the message belongs to, for example the id of a saga.
    #[arg(long, default_value = "", hide_default_value = true)]
    correlation_id: String,
    /// The id of the message that caused this one.
    #[arg(long, default_value = "", hide_default_value = true)]
    causation_id: String,
    /// Publish it so many times.
    #[arg(long, default_value_t = 1, value_parser = value::positive)]
    count: u64,
    /// Publish every line of standard input as a message. A line that is refused ends it.
    #[arg(long, conflicts_with_all = ["payload", "id"])]
    lines: bool,
    /// Publish the lines that `courser salvage` wrote to this file, each into its queue, which must be
    /// there; `-` reads standard input. A line that is refused ends it. A message goes to the topic of
    /// its queue's name, so queues with bindings that match that name too, as `#` and `*` do, get a copy:
    /// remove such bindings before, and put them back afterwards.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["topic", "payload", "id", "headers", "kind", "source", "content_type",
            "schema_version", "correlation_id", "causation_id", "count", "lines"]
    )]
    from_salvage: Option<PathBuf>,
    /// Refuse the message when it would reach no queue.
    #[arg(long)]
    mandatory: bool,
    /// Be content when the message is written, before it is synced to the disk.
    #[arg(long)]
    buffered: bool,
}

impl Publish {
    pub(super) async fn run(&self, client: &Client, output: &mut Output) -> anyhow::Result<()> {
        let mut report = Report::default();
        let published = self.publish(client, output, &mut report).await;
        report.end(output)?;
        output.finish()?;
        published
    }

    async fn publish(
        &self,
        client: &Client,
        output: &mut Output,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        if let Some(from) = &self.from_salvage {
            report.is_salvage = true;
            let publisher = client.publisher(self.options()).await?;
            let mut feed = Feed::new(self, client, publisher);
            let read = self.publish_salvaged(from, &mut feed, output, report).await;
            return read.and(feed.finish(output, report).await);
        }
        if self.lines {
            let publisher = client.publisher(self.options()).await?;
            let mut feed = Feed::new(self, client, publisher);
            let read = self.publish_lines(&mut feed, output, report).await;
            return read.and(feed.finish(output, report).await);
        }
        let message = self.message(self.payload()?);
        if self.count == 1 {
            for result in client.publish(self.request(message)).await? {
                report.take(output, result)?;
            }
            return Ok(());
        }
        if !self.id.is_empty() {
            return Err(usage(
                "--id names one message, so it cannot be used with --count",
            ));
        }
        let publisher = client.publisher(self.options()).await?;
        let mut feed = Feed::new(self, client, publisher);
        for number in 1..=self.count {
            if feed.stops() {
                break;
            }
            feed.give(number, message.clone(), output, report).await?;
        }
        feed.finish(output, report).await
    }

    async fn publish_lines(
        &self,
        feed: &mut Feed<'_>,
        output: &mut Output,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
        let mut number = 0;
        while !feed.stops()
            && let Some(mut line) = lines
                .next_segment()
                .await
                .context("cannot read standard input")?
        {
            number += 1;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            let message = self.message(line.into());
            for _ in 0..self.count {
                if feed.stops() {
                    break;
                }
                feed.give(number, message.clone(), output, report).await?;
            }
        }
        Ok(())
    }

    async fn publish_salvaged(
        &self,
        from: &Path,
        feed: &mut Feed<'_>,
        output: &mut Output,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let cannot = || format!("cannot read {}", from.display());
        let mut lines = lines_of(from).with_context(cannot)?;
        let mut number = 0;
        while !feed.stops()
            && let Some(line) = lines.recv().await
        {
            number += 1;
            let message = salvaged::message(number, &line.with_context(cannot)?)?;
            feed.give(number, message, output, report).await?;
        }
        Ok(())
    }

    /// What was salvaged says all of itself; no flag does.
    pub(super) fn flags(&self) -> Flags {
        if self.from_salvage.is_some() {
            &[]
        } else {
            FLAGS
        }
    }

    /// Whether each message is a line that was read.
    fn has_lines(&self) -> bool {
        self.lines || self.from_salvage.is_some()
    }

    /// What was salvaged must not be lost again.
    fn is_mandatory(&self) -> bool {
        self.mandatory || self.from_salvage.is_some()
    }

    fn payload(&self) -> anyhow::Result<Bytes> {
        match self.payload.as_deref() {
            None => Ok(Bytes::new()),
            Some("-") => {
                let mut payload = Vec::new();
                io::stdin()
                    .read_to_end(&mut payload)
                    .context("cannot read standard input")?;
                Ok(payload.into())
            }
            Some(payload) => Ok(payload.to_owned().into()),
        }
    }

    fn message(&self, payload: Bytes) -> Message {
        Message {
            id: self.id.clone(),
            topic: self.topic.clone().unwrap_or_default(),
            payload,
            headers: self.headers.iter().cloned().collect(),
            content_type: self.content_type.clone(),
            r#type: self.kind.clone(),
            source: self.source.clone(),
            schema_version: self.schema_version.clone(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            ..Message::default()
        }
    }

    fn durability(&self) -> wire::Durability {
        if self.buffered {
            wire::Durability::Buffered
        } else {
            wire::Durability::Synced
        }
    }

    /// A request of one message.
    fn request(&self, message: Message) -> wire::PublishRequest {
        wire::PublishRequest {
            messages: vec![message],
            mandatory: self.is_mandatory(),
            durability: self.durability().into(),
        }
    }

    fn options(&self) -> PublisherOptions {
        PublisherOptions {
            durability: self.durability(),
            mandatory: self.is_mandatory(),
            ..PublisherOptions::default()
        }
    }
}

/// Reads lines on a thread of its own: who writes into a pipe may take minutes for the next one, and
/// meanwhile the connection is to be kept up.
fn lines_of(from: &Path) -> io::Result<mpsc::Receiver<io::Result<Vec<u8>>>> {
    let file: Box<dyn io::Read + Send> = if from == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(from)?)
    };
    let (sender, lines) = mpsc::channel(LINES_AHEAD);
    task::spawn_blocking(move || {
        for line in io::BufReader::new(file).split(b'\n') {
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    Ok(lines)
}

/// What is told of the messages that were published.
#[derive(Default)]
struct Report {
    messages: u64,
    /// How many of them reached no queue.
    unroutable: u64,
    /// How many of them reached more than one.
    several: u64,
    /// They were salvaged: each belongs into one queue.
    is_salvage: bool,
    first: PublishResult,
    last: PublishResult,
    /// Kept only for the one answer of `json`.
    results: Vec<PublishResult>,
}

impl Report {
    fn take(&mut self, output: &mut Output, result: PublishResult) -> anyhow::Result<()> {
        if self.messages == 0 || result.position < self.first.position {
            self.first = result.clone();
        }
        self.messages += 1;
        self.unroutable += u64::from(result.queues == 0);
        self.several += u64::from(result.queues > 1);
        match output.format {
            Format::Table => {}
            Format::Json => self.results.push(result.clone()),
            Format::Ndjson => output.message(&result)?,
        }
        if result.position >= self.last.position {
            self.last = result;
        }
        Ok(())
    }

    fn end(&self, output: &mut Output) -> anyhow::Result<()> {
        let (first, last) = (&self.first, &self.last);
        match (output.format, self.messages) {
            (Format::Ndjson, _) | (Format::Table, 0) => {}
            (Format::Json, _) => output.list("results", &self.results)?,
            (Format::Table, 1) => {
                let PublishResult {
                    id,
                    position,
                    queues,
                } = first;
                let queues = value::count((*queues).into(), "queue", "queues");
                let id = printable(id);
                output.line(&format!(
                    "published {id} at position {position} to {queues}"
                ))?;
            }
            (Format::Table, messages) => {
                let messages = value::number(messages);
                let (from, to) = (first.position, last.position);
                output.line(&format!(
                    "published {messages} messages at positions {from} to {to}"
                ))?;
            }
        }
        if output.format == Format::Table && self.unroutable > 0 {
            let none = match (self.unroutable, self.messages) {
                (_, 1) => "it".to_owned(),
                (unroutable, _) => format!("{} of them", value::number(unroutable)),
            };
            output.line(&format!(
                "{none} reached no queue: bind one to the topic, or use --mandatory"
            ))?;
        }
        if output.format == Format::Table && self.is_salvage && self.several > 0 {
            let several = value::number(self.several);
            output.line(&format!(
                "{several} of them reached more than one queue, where bindings match the name of another \
                 queue"
            ))?;
        }
        Ok(())
    }
}

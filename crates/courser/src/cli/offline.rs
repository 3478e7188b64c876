//! `courser verify` and `courser salvage`: a data folder without a broker.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use courser_core::{message::Attributes, record::AttemptOutcome, time::Timestamp};
use courser_store::{
    StoreError,
    offline::{self, Damage, Salvaged, Saved, Torn, Verified},
};
use serde_json::{Map, Value, json};

use crate::{
    cli::{
        output::{Format, Output, Table, printable, utf8_or_base64},
        value,
    },
    config::{Config, Layer},
};

/// Which folder: as `courser serve` finds it.
#[derive(Debug, clap::Args)]
struct Folder {
    /// The configuration file. Flags win over the environment, and that over the file.
    #[arg(long, value_name = "FILE", env = "COURSER_CONFIG")]
    config: Option<PathBuf>,
    /// The data folder [default: ./courser-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl Folder {
    fn path(self) -> anyhow::Result<PathBuf> {
        let mut layers = Vec::new();
        layers.extend(self.config.as_deref().map(Layer::file));
        layers.push(Layer::environment(std::env::vars_os()));
        layers.push(Layer::flags([("data_dir", self.data_dir)]));
        Ok(Config::resolve(layers)?.data_dir)
    }
}

/// Check a data folder that no broker uses, and change nothing in it.
///
/// Every frame, message and record of the log, every value of the index, and whether what lives can be
/// read. The index is checked in a copy, which takes as much room for a while in the folder for
/// temporary files (TMPDIR) as `index/` takes.
///
/// Exit codes: 0 nothing is damaged, 1 something is, or it cannot be checked, 2 wrong usage.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    #[command(flatten)]
    folder: Folder,
}

impl Verify {
    pub(super) fn run(self, format: Format) -> anyhow::Result<()> {
        let folder = self.folder.path()?;
        let found = offline::verify(&folder).map_err(told)?;
        let mut output = Output::new(format);
        match format {
            Format::Table => table(&mut output, &found)?,
            Format::Json | Format::Ndjson => output.json(&report(&found))?,
        }
        output.finish()?;
        if found.damaged > 0 {
            bail!(
                "{} is damaged in {}",
                folder.display(),
                value::count(found.damaged, "place", "places")
            );
        }
        Ok(())
    }
}

/// What the store says of a full disk is meant for a broker; here it can only be the copy of the index that
/// has no room.
fn told(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Full { path } => anyhow::anyhow!(
            "there is no room for a copy of the index, at {path}: make room there, or name a folder on \
             another disk with TMPDIR, and run this again"
        ),
        other => other.into(),
    }
}

fn report(found: &Verified) -> Value {
    let queues = found.queues.iter().map(|queue| {
        json!({
            "name": queue.name,
            "entries": queue.entries,
            "unreadable": queue.unreadable,
            "bytes": queue.bytes,
        })
    });
    json!({
        "damaged": found.damaged,
        "damages": found.damages.iter().map(damage).collect::<Vec<_>>(),
        "torn": found.torn.as_ref().map(torn),
        "log": {
            "segments": found.log.segments,
            "spares": found.log.spares,
            "bytes": found.log.bytes,
            "frames": found.log.frames,
            "records": found.log.records,
            "messages": found.log.messages,
        },
        "index": { "values": found.index_values, "upto": found.index_upto },
        "queues": queues.collect::<Vec<_>>(),
    })
}

fn damage(damage: &Damage) -> Value {
    json!({
        "path": damage.path.display().to_string(),
        "offset": damage.offset,
        "holds": damage.holds,
        "why": damage.why,
        "remedy": damage.remedy,
    })
}

fn torn(torn: &Torn) -> Value {
    json!({
        "path": torn.path.display().to_string(),
        "offset": torn.offset,
        "bytes": torn.bytes,
        "frame": torn.frame,
    })
}

fn table(output: &mut Output, found: &Verified) -> io::Result<()> {
    let log = &found.log;
    let (number, count) = (value::number, value::count);
    let facts = [
        (
            "log",
            format!(
                "{} in {}, {}",
                value::size(log.bytes),
                count(log.segments, "segment", "segments"),
                count(log.spares, "spare file", "spare files")
            ),
        ),
        (
            "in it",
            format!(
                "{}, {}, {}",
                count(log.frames, "frame", "frames"),
                count(log.records, "record", "records"),
                count(log.messages, "message", "messages")
            ),
        ),
        (
            "index",
            format!(
                "{}, up to frame {}",
                count(found.index_values, "value", "values"),
                number(found.index_upto)
            ),
        ),
    ];
    output.table(&Table::facts(facts))?;
    if !found.queues.is_empty() {
        output.line("")?;
        let mut queues = Table::new(&["QUEUE", ">ENTRIES", ">UNREADABLE", ">BYTES"]);
        for queue in &found.queues {
            queues.row([
                queue.name.clone(),
                number(queue.entries),
                number(queue.unreadable),
                value::size(queue.bytes),
            ]);
        }
        output.table(&queues)?;
    }
    output.line("")?;
    if let Some(torn) = &found.torn {
        output.line(&format!(
            "the log has a torn end, as a crash leaves it: {} from byte {} of {} on. The next start cuts it",
            count(torn.bytes, "byte", "bytes"),
            torn.offset,
            torn.path.display()
        ))?;
    }
    for damage in &found.damages {
        tell(output, damage)?;
    }
    let untold = found.damaged - found.damages.len() as u64;
    if untold > 0 {
        output.line(&format!("and {} more", number(untold)))?;
    }
    if found.damaged == 0 {
        output.line("nothing is damaged")?;
    }
    Ok(())
}

fn tell(output: &mut Output, damage: &Damage) -> io::Result<()> {
    let path = damage.path.display().to_string();
    let place = match damage.offset {
        Some(offset) => format!("{path} at byte {offset}"),
        None => path,
    };
    output.line(&format!("damaged: {}", printable(&place)))?;
    output.line(&format!("  holds: {}", printable(&damage.holds)))?;
    output.line(&format!("  why:   {}", printable(&damage.why)))?;
    output.line(&format!("  do:    {}", printable(&damage.remedy)))
}

/// Get the messages out of a data folder that no broker uses, damaged or not.
///
/// Writes a line of JSON for every message that lives, as far as that can be known, in each of its
/// queues. Damaged places are gone round; nothing in the folder is changed. `courser publish
/// --from-salvage FILE` takes the lines in again.
#[derive(Debug, clap::Args)]
pub(super) struct Salvage {
    #[command(flatten)]
    folder: Folder,
    /// The file to write, which must not be there yet; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Salvage {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let folder = self.folder.path()?;
        let done = if self.to == Path::new("-") {
            write_all(&folder, &self.to, io::stdout().lock())?
        } else {
            let file = File::create_new(&self.to)
                .with_context(|| format!("cannot make {}", self.to.display()))?;
            let done = match write_all(&folder, &self.to, &file) {
                Ok(done) => done,
                Err(error) => {
                    // The next try is to find no file; what did come out is kept.
                    if file.metadata().is_ok_and(|file| file.len() == 0) {
                        let _ = fs::remove_file(&self.to);
                    }
                    return Err(error);
                }
            };
            file.sync_all()
                .with_context(|| format!("cannot sync {}", self.to.display()))?;
            done
        };
        let mut stderr = io::stderr().lock();
        for line in summary(&done) {
            writeln!(stderr, "{line}")?;
        }
        Ok(())
    }
}

fn write_all(folder: &Path, to: &Path, into: impl io::Write) -> anyhow::Result<Salvaged> {
    let mut into = BufWriter::new(into);
    let failed = |source| StoreError::Io {
        action: "write",
        path: to.display().to_string(),
        source,
    };
    let done = offline::salvage(folder, &mut |saved| {
        write_line(&mut into, &saved).map_err(failed)
    });
    let done = done.map_err(told)?;
    into.flush().map_err(failed)?;
    Ok(done)
}

pub(super) fn write_line(mut into: impl io::Write, saved: &Saved) -> io::Result<()> {
    serde_json::to_writer(&mut into, &line(saved))?;
    into.write_all(b"\n")
}

/// A message of a queue, as `courser publish --from-salvage` reads it.
fn line(saved: &Saved) -> Value {
    let message = &saved.message;
    let none = Attributes::default();
    let attributes = message.attributes.as_deref().unwrap_or(&none);
    let (suffix, payload) = utf8_or_base64(&message.payload);
    let headers = message.headers.iter().cloned();
    let headers: Map<String, Value> = headers.map(|(key, value)| (key, value.into())).collect();
    let mut line = json!({
        "queue": saved.queue,
        "seq": saved.seq.0,
        "certain": saved.certain,
        "position": message.position.0,
        "published_at": moment(message.published_at),
        "id": message.id.to_string(),
        "topic": &*message.topic,
        "headers": headers,
        "content_type": attributes.content_type,
        "type": attributes.kind,
        "source": attributes.source,
        "schema_version": attributes.schema_version,
        "correlation_id": attributes.correlation_id,
        "causation_id": attributes.causation_id,
        "traceparent": attributes.traceparent,
        "failures": saved.failures,
    });
    line[format!("payload{suffix}")] = payload.into();
    let note = saved.note.as_deref();
    if let Some(dead) = note.and_then(|note| note.dead_letter.as_ref()) {
        line["dead_letter"] = json!({
            "reason": dead.reason,
            "description": dead.description,
            "queue": &*dead.queue,
            "at": moment(dead.at),
        });
    }
    if let Some(note) = note.filter(|note| !note.attempts.is_empty()) {
        let attempts = note.attempts.iter().map(|attempt| {
            json!({
                "number": attempt.number,
                "consumer": &*attempt.consumer,
                "ended_at": moment(attempt.ended_at),
                "outcome": outcome(attempt.outcome),
                "error": attempt.error,
            })
        });
        line["attempts"] = attempts.collect();
    }
    line
}

fn outcome(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Nacked => "nacked",
        AttemptOutcome::Expired => "expired",
        AttemptOutcome::Disconnected => "disconnected",
        AttemptOutcome::Rejected => "rejected",
    }
}

/// RFC 3339, or null beyond the year 9999, which it cannot write.
fn moment(at: Timestamp) -> Option<String> {
    let since = Duration::from_micros(at.as_micros());
    (since.as_secs() < 253_402_300_800)
        .then(|| humantime::format_rfc3339(SystemTime::UNIX_EPOCH + since).to_string())
}

fn summary(done: &Salvaged) -> Vec<String> {
    let count = value::count;
    let mut lines = vec![format!(
        "salvaged {} (one for each queue that a message lives in); {}",
        count(done.entries, "message", "messages"),
        count(done.damaged, "damaged place", "damaged places")
    )];
    for damage in &done.damages {
        let at = damage.offset.map(|offset| format!(" at byte {offset}"));
        let (path, at) = (damage.path.display(), at.unwrap_or_default());
        lines.push(format!("  {path}{at}: {}: {}", damage.holds, damage.why));
    }
    if let Some(torn) = &done.torn {
        lines.push(format!(
            "the log has a torn end from byte {} of {} on: what stands there was never confirmed, unless it \
             rotted since, and is left out",
            torn.offset,
            torn.path.display()
        ));
    }
    let mut told = |number: u64, one: &str, many: &str| {
        if number > 0 {
            lines.push(count(number, one, many));
        }
    };
    told(
        done.unreadable,
        "message lives and cannot be read: it is lost",
        "messages live and cannot be read: they are lost",
    );
    told(
        done.lost_frames,
        "frame is lost with what it said: messages that only it held, and settlements",
        "frames are lost with what they said: messages that only they held, and settlements",
    );
    told(
        done.uncertain,
        "message may have been settled before: its line says \"certain\": false",
        "messages may have been settled before: their lines say \"certain\": false",
    );
    told(
        done.without_queue,
        "message has no queue, as nothing that is left says which: its line says \"queue\": null",
        "messages have no queue, as nothing that is left says which: their lines say \"queue\": null",
    );
    if done.index_damaged {
        lines.push("the index could not be used as it is: what lives was told from the log".into());
    }
    if done.entries > 0 {
        lines.push(
            "before `courser publish --from-salvage`, remove bindings that match the names of other queues, \
             as # and * do: such a queue would get a copy of what is theirs"
                .into(),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_that_of_the_copy_and_no_broker_is_to_be_started() {
        let path = "/tmp/courser-index-a".to_owned();
        let said = told(StoreError::Full { path }).to_string();
        assert!(said.contains("/tmp/courser-index-a"), "{said}");
        assert!(
            said.contains("TMPDIR") && !said.contains("broker"),
            "{said}"
        );
    }

    #[test]
    fn one_of_a_kind_is_told_as_one() {
        let done = Salvaged {
            entries: 1,
            damaged: 1,
            unreadable: 1,
            lost_frames: 1,
            uncertain: 1,
            without_queue: 2,
            ..Salvaged::default()
        };
        let said = summary(&done);
        assert!(said[0].starts_with("salvaged 1 message ("), "{said:?}");
        assert!(said[0].ends_with("; 1 damaged place"), "{said:?}");
        assert!(said[1].starts_with("1 message lives"), "{said:?}");
        assert!(said[2].starts_with("1 frame is"), "{said:?}");
        assert!(said[3].contains("its line says"), "{said:?}");
        assert!(said[4].starts_with("2 messages have"), "{said:?}");
    }
}

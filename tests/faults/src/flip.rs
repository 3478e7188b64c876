//! Bits that flip in a folder that nobody uses: found, or of no consequence.
//!
//! The folder is one that a load left, closed in order or killed. After the flip `courser verify` looks
//! at it, then a broker starts on it. Either the start is refused with a sentence that names a file and
//! what to do, and `verify` had found the damage; or everything is there, as the judge says. What comes
//! out by `courser salvage` is compared with what came out before the flip. Every other start does not look through
//! what is older (`check_at_start`), and may find damage as late as it is read; one that does finds all that
//! `verify` finds in the log.
//!
//! One thing nobody can tell apart: behind a kill, the last frame that rots and one that was never
//! written whole. It is cut as torn, and counted here; no more may be missing than was in it.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use crate::{
    broker::{Broker, Ended, Programs},
    changes, drain, folder,
    history::{History, Known},
    judge,
    letter::Letter,
    load::Load,
    random::Random,
    report::Outcome,
    round::{self, AFTER_ALL, Round, Start, Starts, Until},
};

/// Flips in one folder.
pub(crate) const FLIPS_OF_A_FOLDER: u64 = 20;
/// What `verify` says of bits that stand behind the end of the log.
const TAIL: &str = "cut as a torn tail";
/// A flip where nobody looks.
const NOT_SEEN: &str = "no data hit";

/// What a program of ours found in a folder.
struct Looked {
    damaged: bool,
    /// In a file of the log.
    log_damaged: bool,
    torn: bool,
    records: u64,
    text: String,
}

/// A load, and flips in what it left.
pub(crate) async fn run(
    programs: &Programs,
    starts: &Starts,
    number: u64,
    mut random: Random,
) -> Outcome {
    let is_closed = number.is_multiple_of(2);
    let mut outcome = Outcome::new(format!("flips, closed: {is_closed}"));
    outcome.cases = 0;
    let round = Round::new(programs, &starts.worn);
    let history = History::new(starts.worn.known.clone(), &round.place.control);
    let load = Load::SMALL;
    let ended = match round::scenario(
        &round.place,
        &history,
        load,
        false,
        Until::Rewritten,
        &|| (),
        &mut random,
    )
    .await
    {
        Ok(mut broker) if is_closed => broker.end().await,
        Ok(mut broker) => broker.kill(),
        Err(ended) => ended,
    };
    if is_closed != ended.status.success() {
        outcome.wrong.push(format!("it ended badly: {ended:?}"));
    }
    let mut known = history.known();
    outcome.totals = known.totals;
    outcome.wrong.append(&mut known.violations);
    let whole = Start {
        tree: folder::read(&round.place.data()).0.into(),
        ..Start::default()
    };
    let before = verify(&round);
    if before.damaged || (is_closed && before.torn) {
        let what = format!("verify blames a folder that is well: {}", before.text);
        outcome.wrong.push(what);
    }
    let saved = salvage(&round, &mut outcome.wrong);
    if !outcome.wrong.is_empty() {
        return outcome.close(round);
    }
    let first = outcome.wrong.len();
    for number in 0..FLIPS_OF_A_FOLDER {
        let mut round = Round::new(programs, &whole);
        round.place.is_looked_through = number.is_multiple_of(2);
        let place = flip(&round, &mut random);
        outcome.cases += 1;
        let case = Case {
            known: &known,
            is_closed,
            records: before.records,
            saved: &saved,
        };
        let kind = case.check(&round, &mut outcome.wrong).await;
        outcome.hit |= kind != NOT_SEEN;
        *outcome.kinds.entry(kind).or_default() += 1;
        if outcome.wrong.len() > first {
            outcome.what += &format!("; {place}");
            return outcome.close(round);
        }
    }
    outcome
}

/// Changes bits at a random place of a random file; says where.
fn flip(round: &Round, random: &mut Random) -> String {
    let data = round.place.data();
    let tree = folder::read(&data).0;
    let files: Vec<(&String, &Vec<u8>)> = tree
        .files
        .iter()
        .filter(|(name, bytes)| *name != "LOCK" && !bytes.is_empty())
        .collect();
    // Mostly where there is something: most of a segment and of the index is zeros.
    let (name, bytes) = loop {
        let (name, bytes) = files[random.within(0..files.len() as u64) as usize];
        if !name.ends_with(".spare") || random.percent(10) {
            break (name, bytes);
        }
    };
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    let end = if random.percent(95) {
        used
    } else {
        bytes.len()
    };
    let at = if random.percent(10) {
        end.saturating_sub(random.within(1..400) as usize)
    } else {
        random.within(0..end as u64) as usize
    };
    let mut flipped = bytes.clone();
    let count = if random.percent(70) {
        1
    } else {
        random.within(2..600) as usize
    };
    for byte in flipped[at..].iter_mut().take(count) {
        *byte ^= if count == 1 {
            1 << random.within(0..8)
        } else {
            random.within(1..256) as u8
        };
    }
    std::fs::write(data.join(name), flipped).unwrap();
    format!("{count} bytes from byte {at} of {name}")
}

struct Case<'a> {
    known: &'a Known,
    is_closed: bool,
    records: u64,
    saved: &'a BTreeMap<u64, Vec<String>>,
}

impl Case<'_> {
    /// Looks, takes out, starts and drains.
    async fn check(&self, round: &Round, wrong: &mut Vec<String>) -> &'static str {
        let untouched = folder::read(&round.place.data()).0;
        let looked = verify(round);
        let saved = salvage(round, wrong);
        if let Some(what) = folder::difference(&untouched, &folder::read(&round.place.data()).0) {
            wrong.push(format!("looking at it changed {what}"));
        }
        self.compare(&saved, &looked, wrong);
        let mut broker = match Broker::start(&round.place).await {
            Ok(broker) => broker,
            Err(ended) => {
                check_refusal(&ended, &looked, wrong);
                return "refused";
            }
        };
        if round.place.is_looked_through && looked.log_damaged {
            wrong.push(format!("it starts, and verify says {}", looked.text));
        }
        let mut judged = Vec::new();
        let mut found = drain::all(&broker, self.known, &mut judged).await;
        match changes::wrong(&broker, self.known, AFTER_ALL).await {
            Ok(difference) => judged.extend(difference),
            Err(error) => found = found.and(Err(error)),
        }
        let log = broker.log();
        broker.kill();
        match found {
            Ok(found) => judged.extend(judge::judge(self.known, AFTER_ALL, &found)),
            // A message of a segment that a start does not go through is found when it is read.
            Err(_) if looked.damaged && stopped_at_damage(&log) => {
                match Broker::start(&round.place).await {
                    Ok(mut broker) => {
                        wrong.push(format!(
                            "it starts again on what it refused to read:\n{log}"
                        ));
                        broker.kill();
                    }
                    Err(ended) => check_refusal(&ended, &looked, wrong),
                }
                return "started, and a read was refused";
            }
            Err(error) => judged.push(format!("the drain failed: {error:#}\n{log}")),
        }
        if judged.is_empty() {
            return if looked.damaged {
                "found, nothing lost"
            } else {
                NOT_SEEN
            };
        }
        let lost = self.records.saturating_sub(looked.records);
        // It is told as torn, unless the bytes rotted that mark it as a frame of its file: then only its records lack.
        let is_tail = !self.is_closed && !looked.damaged;
        let is_missing = |what: &String| {
            // What was done last may be undone.
            [
                "is lost",
                "came again",
                "is back in its queue",
                "it was redriven",
                "came with attempt",
            ]
            .iter()
            .any(|missing| what.contains(missing))
        };
        if is_tail && judged.iter().all(is_missing) && judged.len() as u64 <= lost {
            return TAIL;
        }
        let torn = looked.torn;
        wrong.push(format!(
            "verify: damaged {}, torn {torn}; {lost} records fewer",
            looked.damaged
        ));
        wrong.extend(judged);
        "lost"
    }

    /// What was salvaged was there before, and of the log at most a frame or two are missing.
    fn compare(
        &self,
        saved: &BTreeMap<u64, Vec<String>>,
        looked: &Looked,
        wrong: &mut Vec<String>,
    ) {
        for (position, lines) in saved {
            let before = self.saved.get(position);
            if before.is_some_and(|before| before[0] != lines[0]) {
                wrong.push(format!("message {position} was salvaged altered"));
            }
        }
        let missing = |position: &&u64| !saved.contains_key(position);
        let missing = self.saved.keys().filter(missing).count() as u64;
        // One place of at most 600 bytes is in three frames at most, of what a commit gathered.
        let lost = self.records.saturating_sub(looked.records);
        if missing > lost + 40 {
            wrong.push(format!("{missing} messages are not salvaged any more"));
        }
    }
}

/// Whether its store failed because of damage; one that could not be rewritten is told too, and nothing fails.
fn stopped_at_damage(log: &str) -> bool {
    log.lines()
        .any(|line| line.contains("the store failed") && line.contains("is damaged at byte"))
}

/// A start that is refused says why and what helps, and `verify` had found it.
fn check_refusal(ended: &Ended, looked: &Looked, wrong: &mut Vec<String>) {
    let log = &ended.log;
    if !looked.damaged {
        wrong.push(format!("refused, and verify found nothing: {log}"));
    }
    let names = ["/log", "/index", "FORMAT"];
    let helps = [
        "restore",
        "move the folder of the index",
        "write the two lines",
    ];
    let is_told = ended.status.code() == Some(1)
        && names.iter().any(|name| log.contains(name))
        && helps.iter().any(|help| log.contains(help));
    if !is_told {
        wrong.push(format!("refused without a good sentence: {ended:?}"));
    }
}

/// `courser` with the data folder of a round.
fn courser(round: &Round, arguments: &[&str]) -> Output {
    Command::new(&round.place.programs.broker)
        .env_clear()
        .args(arguments)
        .arg("--data-dir")
        .arg(round.place.data())
        .output()
        .unwrap()
}

fn verify(round: &Round) -> Looked {
    let output = courser(round, &["verify", "--output", "ndjson"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Looked {
        damaged: output.status.code() == Some(1),
        log_damaged: text
            .split_once(r#""torn":"#)
            .is_some_and(|(damages, _)| damages.contains(r#".seg""#)),
        torn: !text.contains(r#""torn":null"#),
        records: figure(&text, "records"),
        text,
    }
}

/// A figure of a line of JSON.
fn figure(text: &str, name: &str) -> u64 {
    let rest = text
        .split_once(&format!("\"{name}\":"))
        .map(|(_, rest)| rest);
    let digits = rest.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits
        .flatten()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// The payloads that come out, by position. Each must be one that was sent.
fn salvage(round: &Round, wrong: &mut Vec<String>) -> BTreeMap<u64, Vec<String>> {
    let output = courser(round, &["salvage", "--to", "-"]);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        wrong.push(format!("nothing was salvaged: {said}"));
    }
    let mut saved: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let payload = line.split_once(r#""payload_base64":""#);
        let payload = payload.and_then(|(_, rest)| rest.split_once('"'));
        let Some((payload, _)) = payload else {
            continue;
        };
        let letter = decoded(payload).and_then(|bytes| Letter::read(&bytes));
        if letter.is_none() {
            wrong.push(format!("a payload that nobody sent was salvaged: {line}"));
        }
        let position = figure(line, "position");
        saved.entry(position).or_default().push(payload.to_owned());
    }
    saved
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

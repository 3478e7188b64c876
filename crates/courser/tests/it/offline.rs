//! `courser verify`, `courser salvage`, and the way back in.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Broker, broker, courser, courser_in, serve};

/// The folder of a broker that was ended in order, with messages in two queues and a dead letter.
fn closed() -> TempDir {
    let (broker, folder) = broker();
    broker
        .courser(&["queue", "create", "orders", "--bind", "order.*"])
        .done();
    broker
        .courser(&["queue", "create", "copies", "--bind", "order.*"])
        .done();
    for number in 0..20 {
        let text = format!("order number {number}, which says a little more than that");
        let header = ["--header", "region=eu", "--content-type", "text/plain"];
        let publish = [&["publish", "order.created", &*text][..], &header].concat();
        broker.courser(&publish).done();
    }
    broker
        .courser(&["consume", "copies", "--count", "15"])
        .done();
    broker
        .courser(&["consume", "orders", "--count", "1", "--dead-letter", "odd"])
        .done();
    broker.signal("-TERM");
    assert_eq!(broker.ended().0, 0);
    folder
}

fn flag(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

fn segment(folder: &Path) -> PathBuf {
    folder.join("log/00000000000000000001.seg")
}

/// Flips a bit in the payload that says this.
fn flip(path: &Path, text: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes
        .windows(text.len())
        .position(|part| part == text.as_bytes());
    bytes[at.unwrap()] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_folder_is_verified_salvaged_and_taken_in_again() {
    let folder = closed();
    let data_dir = flag(folder.path());
    let said = courser(&["verify", "--data-dir", data_dir]).done();
    assert!(said.contains("nothing is damaged"), "{said}");
    let report = courser(&["verify", "--data-dir", data_dir, "--output", "json"]).json();
    assert_eq!(report["damaged"], 0);
    let entries = |name: &str| {
        let queues = report["queues"].as_array().unwrap();
        let queue = queues.iter().find(|queue| queue["name"] == name);
        queue.map(|queue| queue["entries"].as_u64().unwrap())
    };
    assert_eq!((entries("orders"), entries("copies")), (Some(19), Some(5)));
    assert_eq!(entries("orders.dlq"), Some(1));

    let lines = courser(&["salvage", "--data-dir", data_dir, "--to", "-"]).json_lines();
    assert_eq!(lines.len(), 25);
    assert!(lines.iter().all(|line| line["certain"] == true));
    let dead: Vec<&Value> = lines
        .iter()
        .filter(|line| !line["dead_letter"].is_null())
        .collect();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0]["dead_letter"]["reason"], "odd");
    assert_eq!(dead[0]["content_type"], "text/plain");

    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("messages.ndjson");
    let file = file.to_str().unwrap();
    let ended = courser(&["salvage", "--data-dir", data_dir, "--to", file]);
    assert!(ended.stderr.contains("salvaged 25 messages"), "{ended:?}");
    let again = courser(&["salvage", "--data-dir", data_dir, "--to", file]).failed(1);
    assert!(again.contains("messages.ndjson"), "{again}");
    let (fresh, _folder) = broker();
    let said = fresh
        .courser(&["publish", "--from-salvage", file])
        .failed(1);
    assert!(said.contains("line 1"), "{said}");
    fresh
        .courser(&["queue", "create", "orders", "--bind", "order.*"])
        .done();
    fresh
        .courser(&["queue", "create", "copies", "--bind", "order.*"])
        .done();
    fresh.courser(&["publish", "--from-salvage", file]).done();
    assert_eq!(fresh.stat("orders", "ready"), 19);
    assert_eq!(fresh.stat("copies", "ready"), 5);
    assert_eq!(fresh.stat("orders.dlq", "ready"), 1);
}

#[test]
fn damage_is_told_with_its_file_and_what_to_do() {
    let folder = closed();
    let data_dir = flag(folder.path());
    let path = segment(folder.path());
    flip(&path, "order number 7,");
    let ended = courser(&["verify", "--data-dir", data_dir]);
    let (stdout, stderr) = (ended.stdout.clone(), ended.failed(1));
    assert!(stderr.contains("is damaged in 2 places"), "{stderr}");
    for expected in [flag(&path), "message 8", "courser salvage", "at byte"] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }
    let json = ["--output", "json", "--data-dir", data_dir];
    let ended = courser(&[&["verify"][..], &json].concat());
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    ended.failed(1);
    assert_eq!(report["damages"][0]["path"], flag(&path));
    let ended = courser(&["salvage", "--data-dir", data_dir, "--to", "-"]);
    assert!(ended.stderr.contains("cannot be read"), "{ended:?}");
    assert_eq!(ended.json_lines().len(), 24, "all but number 7");
}

/// Two files of the log and no more than a little since the last checkpoint: a start replays only the second.
#[test]
fn a_start_looks_for_damage_in_older_files_unless_it_is_told_not_to() {
    let (broker, folder) = broker();
    let bench =
        "bench --publish-only --size 1048576 --count 80 --in-flight 8 --durability buffered";
    let bench: Vec<&str> = bench.split(' ').collect();
    broker.courser(&bench).done();
    broker.signal("-TERM");
    assert_eq!(broker.ended().0, 0);
    let path = segment(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[20_000_000] ^= 1;
    fs::write(&path, bytes).unwrap();

    let ended = serve(folder.path()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    for expected in [
        flag(&path),
        "the checksum of the message",
        "courser salvage",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }

    let mut command = serve(folder.path());
    command.args(["--check-at-start", "0"]);
    let broker = Broker::of(command);
    assert_eq!(broker.stat("bench", "ready"), 80);
    broker.courser(&["queue", "purge", "bench"]).done();
    broker.signal("-TERM");
    assert_eq!(broker.ended().0, 0);
}

#[test]
fn a_folder_in_use_or_absent_is_refused() {
    let (broker, folder) = broker();
    let data_dir = flag(folder.path());
    let out = folder.path().join("never");
    for command in [
        &["verify", "--data-dir", data_dir][..],
        &["salvage", "--data-dir", data_dir, "--to", "-"],
    ] {
        let said = courser(command).failed(1);
        assert!(said.contains("in use") && said.contains("stop"), "{said}");
    }
    drop::<Broker>(broker);
    courser_in(&[("COURSER_DATA_DIR", data_dir)], &["verify"]).done();
    let said = courser(&["verify", "--data-dir", flag(&out)]).failed(1);
    assert!(said.contains("there is no such folder"), "{said}");
    courser(&["salvage", "--data-dir", data_dir]).failed(2);
    courser_in(&[("COURSER_DATA_DIR", "")], &["verify"]).failed(2);
}

#[test]
fn a_salvage_that_is_refused_leaves_no_file() {
    let (broker, folder) = broker();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("messages.ndjson");
    let salvage = ["salvage", "--data-dir", flag(folder.path()), "--to"];
    let salvage = [&salvage[..], &[flag(&file)]].concat();
    let said = courser(&salvage).failed(1);
    assert!(said.contains("in use") && !file.exists(), "{said}");
    drop::<Broker>(broker);
    courser(&salvage).done();
    assert!(file.exists());
}

#[test]
fn a_line_is_published_before_the_next_one_is_there() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "orders"]).done();
    broker
        .courser(&["queue", "create", "audit", "--bind", "#"])
        .done();
    let mut publish = Command::new(env!("CARGO_BIN_EXE_courser"))
        .args(["publish", "--from-salvage", "-", "--output", "ndjson"])
        .env("COURSER_SERVER", &broker.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = publish.stdin.take().unwrap();
    let line = b"{\"queue\":\"orders\",\"topic\":\"order.created\",\"payload\":\"one\"}\n";
    stdin.write_all(line).unwrap();
    let is_there = || broker.stat("orders", "ready") == 1;
    assert!((0..500).any(|_| is_there()), "it waits for another line");
    drop(stdin);
    let mut said = String::new();
    let mut stdout = publish.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert!(said.contains("position"), "{said}");
    assert!(publish.wait().unwrap().success());
    // The queue that takes everything took what was not its own, and that is said.
    assert_eq!(broker.stat("audit", "ready"), 1);
    let said = broker
        .courser_with(line, &["publish", "--from-salvage", "-"])
        .done();
    assert!(said.contains("more than one queue"), "{said}");
}

//! The life of a broker process.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::{Broker, broker, serve, serve_logging};

#[test]
fn it_ends_in_order_on_both_signals() {
    for signal in ["-TERM", "-INT"] {
        let (broker, _folder) = broker();
        assert_eq!(broker.courser(&["health"]).done(), "serving\n");
        broker.signal(signal);
        let (code, log) = broker.ended();
        assert_eq!(code, 0, "{log}");
    }
}

#[test]
fn clients_that_wait_do_not_hold_up_its_end() {
    let (broker, _folder) = broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker.courser(&["publish", "q", "one"]).done();
    let mut follow = broker.spawn(&["consume", "q", "--follow"]);
    assert_eq!(follow.line(), "one");
    broker.signal("-TERM");
    let (code, log) = broker.ended();
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("held up"), "{log}");
    assert_ne!(follow.ended(), 0);
}

#[test]
fn it_keeps_what_was_confirmed_over_a_restart_and_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.courser(&["queue", "create", "q"]).done();
    broker.courser(&["publish", "q", "one"]).done();
    broker.signal("-TERM");
    assert_eq!(broker.ended().0, 0);

    let broker = Broker::start(folder.path());
    broker.courser(&["publish", "q", "two"]).done();
    broker.signal("-KILL");
    broker.ended();

    let broker = Broker::start(folder.path());
    assert_eq!(
        broker.courser(&["consume", "q", "--count", "2"]).done(),
        "one\ntwo\n"
    );
}

#[test]
fn a_data_folder_has_one_broker() {
    let (_broker, folder) = broker();
    let ended = serve(folder.path()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another broker"), "{said}");
    assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
}

#[test]
fn a_folder_that_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter.txt"), "dear").unwrap();
    let ended = serve(folder.path()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains(folder.path().to_str().unwrap()), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// Stopped, as a machine that hangs: connections come about, and nothing is ever said.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is the promise"
)]
fn a_broker_that_hangs_is_told_from_one_that_serves() {
    let (broker, _folder) = broker();
    broker.signal("-STOP");
    let asked = Instant::now();
    let said = broker.courser(&["health"]).failed(3);
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert!(said.contains("no answer from http://127.0.0.1"), "{said}");
    broker.signal("-CONT");
    assert_eq!(broker.courser(&["health"]).done(), "serving\n");
}

#[test]
fn its_http_port_is_not_taken_for_its_grpc_port() {
    let (broker, _folder) = broker();
    for command in [&["health"][..], &["queue", "list"]] {
        let server = ["--server", &broker.http];
        let said = broker.courser(&[command, &server].concat()).failed(3);
        assert!(said.contains("HTTP port"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn its_log_for_people_says_where_it_is_and_what_to_try() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = serve_logging("human", folder.path()).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let lines: Vec<String> = log
        .by_ref()
        .map_while(Result::ok)
        .take_while(|line| !line.contains("try: courser queue create hello --server 127.0.0.1:"))
        .collect();
    process.kill().unwrap();
    process.wait().unwrap();
    let said = lines.join("\n");
    assert!(said.contains(" listens at 127.0.0.1:"), "{said}");
    assert!(
        said.contains("metrics and health are at http://127.0.0.1:"),
        "{said}"
    );
    let data = folder.path().canonicalize().unwrap();
    assert!(
        said.contains(&format!("its data is in {}", data.display())),
        "{said}"
    );
}

#[test]
fn health_is_served_over_http_too() {
    let (broker, _folder) = broker();
    let mut stream = TcpStream::connect(&broker.http).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

//! A process that runs out of files.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use courser_client::{Client, ConnectOptions, Message, QueueOptions, wire::PublishRequest};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::support::serve;

/// A broker whose log can be read while it runs.
struct Broker {
    process: Child,
    log: Box<dyn Iterator<Item = Value>>,
    grpc: String,
}

impl Broker {
    fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut log = log.lines().map(|line| {
            let line = line.unwrap();
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
        });
        let listening: Value = log
            .find(|line: &Value| line["message"] == "listening")
            .unwrap();
        Self {
            process,
            log: Box::new(log),
            grpc: listening["grpc"].as_str().unwrap().to_owned(),
        }
    }

    /// Kept open by whoever keeps them.
    fn connect(&self, count: usize) -> Vec<TcpStream> {
        let connect = || TcpStream::connect(&self.grpc).unwrap();
        (0..count).map(|_| connect()).collect()
    }

    fn client(&self) -> Client {
        let url = format!("http://{}", self.grpc);
        Client::lazy(&url, &ConnectOptions::default()).unwrap()
    }

    /// Lets it have so many files more open than it has now.
    fn leave_files(&self, more: u64) -> Rlimit {
        let folder = format!("/proc/{}/fd", self.process.id());
        let open = std::fs::read_dir(folder).unwrap().count() as u64;
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = Some(open + more);
        self.set_limit(Rlimit { current, maximum })
    }

    /// Answers the limit as it was.
    fn set_limit(&self, limit: Rlimit) -> Rlimit {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        prlimit(pid, Resource::Nofile, limit).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The same command with a limit that it cannot raise.
fn with_files_max(files: u32, command: &Command) -> Command {
    let mut limited = Command::new("/bin/sh");
    limited
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .stderr(Stdio::piped());
    limited
}

fn large() -> PublishRequest {
    let message = Message {
        topic: "q".to_owned(),
        payload: vec![0; 4_000_000].into(),
        ..Message::default()
    };
    PublishRequest {
        messages: vec![message; 4],
        ..PublishRequest::default()
    }
}

/// A store that cannot open the next file of its log has failed until the broker is restarted.
#[tokio::test]
async fn no_number_of_connections_takes_the_files_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&mut with_files_max(64, &serve(folder.path())));
    let client = broker.client();
    client
        .create_queue("q", QueueOptions::default())
        .await
        .unwrap();
    let connections = broker.connect(100);
    // More than two files of the log.
    for _ in 0..10 {
        client.publish(large()).await.unwrap();
    }
    drop(connections);
    assert!(client.is_serving().await.unwrap());
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the pause between the tries is the promise"
)]
async fn a_connection_that_cannot_be_accepted_is_tried_again_after_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(&mut serve(folder.path()));
    let before = broker.leave_files(2);
    let connections = broker.connect(10);
    let mut refused = || {
        let line = broker
            .log
            .find(|line| line["message"] == "a connection could not be accepted");
        assert!(
            line.unwrap()["error"]
                .as_str()
                .unwrap()
                .contains("Too many open files")
        );
        Instant::now()
    };
    let first = refused();
    for _ in 0..3 {
        refused();
    }
    let took = refused() - first;
    assert!(took > Duration::from_millis(500), "it spins: {took:?}");
    broker.set_limit(before);
    drop(connections);
    assert!(broker.client().is_serving().await.unwrap());
}

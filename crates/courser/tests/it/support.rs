//! Runs the binary, as a broker and as a command.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_courser");

/// The binary, with nothing of this process's environment that it would read.
fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// It did what it was told; answers what it printed.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout
    }

    /// The same, as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let stdout = self.done();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// The same, a value for each line.
    #[track_caller]
    pub(crate) fn json_lines(self) -> Vec<Value> {
        self.done()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// It said no, with this exit code; answers what it said.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self.stderr
    }
}

/// Runs a command that needs no broker.
pub(crate) fn courser(arguments: &[&str]) -> Ended {
    run(binary(arguments), b"")
}

/// The same, with variables in the environment.
pub(crate) fn courser_in(environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let mut command = binary(arguments);
    command.envs(environment.iter().copied());
    run(command, b"")
}

fn run(mut command: Command, stdin: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A broker that runs, killed when dropped.
pub(crate) struct Broker {
    process: Child,
    pub(crate) url: String,
    pub(crate) http: String,
    /// Everything that it logs until it ends.
    log: Option<thread::JoinHandle<String>>,
}

impl Broker {
    /// Starts on free ports and returns when it listens.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::of(serve(data_dir))
    }

    /// The same, of a command that was made ready.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut before = String::new();
        let listening = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended: {before}");
            let entry: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if entry["message"] == "listening" {
                break entry;
            }
            before.push_str(&line);
        };
        let log = thread::spawn(move || {
            let mut rest = String::new();
            let _ = log.read_to_string(&mut rest);
            rest
        });
        Self {
            process,
            url: format!("http://{}", listening["grpc"].as_str().unwrap()),
            http: listening["http"].as_str().unwrap().to_owned(),
            log: Some(log),
        }
    }

    /// Runs a command against it.
    pub(crate) fn courser(&self, arguments: &[&str]) -> Ended {
        self.courser_with(b"", arguments)
    }

    /// The same, with something on standard input.
    pub(crate) fn courser_with(&self, stdin: &[u8], arguments: &[&str]) -> Ended {
        let mut command = binary(arguments);
        command.env("COURSER_SERVER", &self.url);
        run(command, stdin)
    }

    /// Starts a command that does not end by itself.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Follow {
        let mut command = binary(arguments);
        command
            .env("COURSER_SERVER", &self.url)
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Follow { process, stdout }
    }

    /// Asks for JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.courser(&[arguments, &["--output", "json"]].concat())
            .json()
    }

    /// A figure of a queue, as `ready`.
    pub(crate) fn stat(&self, queue: &str, name: &str) -> u64 {
        self.json(&["queue", "show", queue])["stats"][name]
            .as_u64()
            .unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end; answers the exit code and what it logged.
    pub(crate) fn ended(mut self) -> (i32, String) {
        let status = self.process.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        (status.code().unwrap_or(-1), log)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn send(signal: &str, process: &Child) {
    let pid = process.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .unwrap()
            .success()
    );
}

/// A command that goes on until it is told to end.
pub(crate) struct Follow {
    process: Child,
    stdout: BufReader<ChildStdout>,
}

impl Follow {
    /// Waits for the next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        send(signal, &self.process);
    }

    /// Waits for its end; answers the exit code.
    pub(crate) fn ended(mut self) -> i32 {
        self.process.wait().unwrap().code().unwrap_or(-1)
    }
}

/// A broker on free ports, not started yet.
pub(crate) fn serve(data_dir: &Path) -> Command {
    serve_logging("json", data_dir)
}

/// The same, with a log of this format.
pub(crate) fn serve_logging(format: &str, data_dir: &Path) -> Command {
    let mut command = binary(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--log-format",
        format,
    ]);
    command
        .arg("--data-dir")
        .arg(data_dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A broker with a new data folder, and the folder.
pub(crate) fn broker() -> (Broker, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Broker::start(folder.path()), folder)
}

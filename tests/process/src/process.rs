//! A start, a wait, signals, an end.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

/// Between two looks at something that is waited for.
pub const LOOK: Duration = Duration::from_millis(2);
/// An address of this machine, at whichever port is free.
pub const FREE_PORT: &str = "127.0.0.1:0";

/// Makes a command the start of a broker on a data folder, with gRPC at an address and its log in JSON. The
/// command is the binary, or what runs it with the arguments it is given. More variables and flags are added to
/// what is answered: a variable that was set before is gone.
pub fn serve(mut command: Command, data: &Path, listen: &str) -> Command {
    // The settings of the test itself are none of the broker's.
    command
        .env_clear()
        .arg("serve")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen", listen, "--log-format", "json"])
        .stdin(Stdio::null());
    command
}

/// Where a broker listens, as `host:port`.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Of gRPC.
    pub grpc: String,
    /// Of the HTTP side; `off` when it was started without one.
    pub http: String,
}

impl Addresses {
    /// As the log says them, once the line is there as a whole.
    pub fn told(log: &str) -> Option<Self> {
        let mut lines = log.split_inclusive('\n');
        let line = lines.find(|line| line.contains(r#""grpc":""#) && line.ends_with('\n'))?;
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(r#""{name}":""#))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        Some(Self {
            grpc: field("grpc")?,
            http: field("http")?,
        })
    }
}

/// Why a broker does not listen.
#[derive(Debug)]
pub enum NotListening {
    /// It ended before it did.
    Ended(ExitStatus),
    /// It runs, and took longer than it may.
    Late,
}

/// A broker that runs until it is ended, killed or dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts what [`serve`] made and does not wait. What it says goes to `output`, which is the file `log`.
    pub fn spawn(command: &mut Command, log: PathBuf, output: File) -> io::Result<Self> {
        let child = command.stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Self { child, log })
    }

    /// Waits until it listens, or ends, and no longer than this.
    pub async fn listening(&mut self, longest: Duration) -> Result<Addresses, NotListening> {
        let deadline = Instant::now() + longest;
        loop {
            if let Some(addresses) = Addresses::told(&self.log()) {
                return Ok(addresses);
            }
            if let Some(status) = self.ended() {
                return Err(NotListening::Ended(status));
            }
            if Instant::now() > deadline {
                return Err(NotListening::Late);
            }
            sleep(LOOK).await;
        }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    ///
    /// If the system does not say, which only happens when another has waited for our child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends it a signal. An error when it is known to have ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(
            Pid::from_child(&self.child),
            signal,
        )?)
    }

    /// Ends it with SIGTERM, as an operator does, and waits; `None` when it has not ended after so long.
    pub async fn end(&mut self, longest: Duration) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + longest;
        loop {
            if let Some(status) = self.ended() {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            sleep(LOOK).await;
        }
    }

    /// kill -9, and waits until the process is gone. It may have ended before.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

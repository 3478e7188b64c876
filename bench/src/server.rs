//! Starts each server as a process of ours, on loopback, with a folder of its own, and ends it by its
//! id.

use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{
    process::{self, Use},
    scenario::SystemId,
};

const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(60);

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Where it keeps its data.
    pub(crate) folder: PathBuf,
    /// The server itself first.
    children: Vec<Child>,
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Courser's binary.
    pub(crate) courser: PathBuf,
    /// Emptied for each start.
    pub(crate) data: PathBuf,
    /// What the servers print.
    pub(crate) logs: PathBuf,
}

impl Server {
    /// Starts a server on an empty folder and waits until it takes connections.
    pub(crate) fn start(system: SystemId, places: &Places, large: bool) -> anyhow::Result<Self> {
        let folder = places.data.join(system.name());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(&places.logs)?;
        let port = free_port()?;
        let mut server = Self {
            port,
            folder: folder.clone(),
            children: Vec::new(),
        };
        let command = match system {
            SystemId::Courser => courser(&places.courser, &folder, port),
            SystemId::Echo => echo(port)?,
            SystemId::Redis | SystemId::RedisPooled => redis(&folder, port),
            SystemId::Nats => nats(&folder, port)?,
            SystemId::RabbitMq | SystemId::RabbitMqMultiple => {
                let epmd = free_port()?;
                let daemon = epmd_daemon(epmd);
                server.spawn(daemon, &places.logs.join("epmd.log"))?;
                rabbitmq(&folder, port, epmd, large)?
            }
            SystemId::Disk => bail!("a disk is no server"),
        };
        server.spawn(command, &places.logs.join(format!("{}.log", system.name())))?;
        // The server itself first; what it needs beside it was started before.
        server.children.reverse();
        server.wait_for_port()?;
        Ok(server)
    }

    pub(crate) fn used(&self) -> Use {
        let ids: Vec<u32> = self
            .children
            .iter()
            .flat_map(|child| process::tree(child.id()))
            .collect();
        process::used(&ids)
    }

    fn spawn(&mut self, mut command: Command, log: &Path) -> anyhow::Result<()> {
        let log = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        self.children.push(child);
        Ok(())
    }

    fn wait_for_port(&mut self) -> anyhow::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let until = Instant::now() + START_MAX;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.children[0].try_wait()? {
                bail!("the server ended at its start: {status}");
            }
            if Instant::now() > until {
                bail!("the server did not open its port");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Server {
    /// Asks the server to end, then what stands beside it; whatever does not end is killed, by id.
    fn drop(&mut self) {
        for child in &mut self.children {
            let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let Some(id) = id else { continue };
            let _ = kill_process(id, Signal::TERM);
            let until = Instant::now() + STOP_MAX;
            while let Ok(None) = child.try_wait() {
                if Instant::now() > until {
                    let _ = kill_process_group(id, Signal::KILL);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn courser(binary: &Path, folder: &Path, port: u16) -> Command {
    let mut command = Command::new(binary);
    // A setting of the caller must not reach it.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("COURSER_") {
            command.env_remove(name);
        }
    }
    command.arg("serve").arg("--data-dir").arg(folder).args([
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--http",
        "off",
    ]);
    command
}

fn echo(port: u16) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["echo", &format!("127.0.0.1:{port}")]);
    Ok(command)
}

fn redis(folder: &Path, port: u16) -> Command {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .arg("--dir")
        .arg(folder)
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        // No snapshots and no rewrite of the file during a run: both would cost Redis time.
        .args(["--save", "", "--auto-aof-rewrite-percentage", "0"]);
    command
}

fn nats(folder: &Path, port: u16) -> anyhow::Result<Command> {
    let config = folder.join("nats.conf");
    let store = folder.join("store");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\n\
         max_payload: 8MB\n\
         jetstream {{\n  store_dir: {store:?}\n  max_file_store: 60GB\n}}\n"
    );
    fs::write(&config, text)?;
    let mut command = Command::new("nats-server");
    command.arg("-c").arg(config);
    Ok(command)
}

fn epmd_daemon(port: u16) -> Command {
    let mut command = Command::new("epmd");
    command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
    command
}

fn rabbitmq(folder: &Path, port: u16, epmd: u16, large: bool) -> anyhow::Result<Command> {
    let entries = if large { 128 } else { 32_768 };
    let config = folder.join("rabbitmq.conf");
    let text = format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\n\
         raft.segment_max_entries = {entries}\n\
         log.file = false\n\
         log.console = true\n\
         log.console.level = warning\n"
    );
    fs::write(&config, text)?;
    let plugins = folder.join("enabled_plugins");
    fs::write(&plugins, "[].\n")?;
    // Debian's wrapper would change the user and use the system's folders; this is what it calls.
    let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    command
        .env("HOME", folder)
        .env("RABBITMQ_NODENAME", "courser-bench@localhost")
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_CONFIG_FILE", &config)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
        .env("ERL_EPMD_PORT", epmd.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+sbwt none +sbwtdcpu none +sbwtdio none \
             -kernel inet_dist_use_interface {127,0,0,1}",
        );
    Ok(command)
}

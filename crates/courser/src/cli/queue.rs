//! `courser queue`

mod options;
mod show;

use anyhow::bail;
use clap::{Subcommand, ValueEnum};
use courser_client::{
    Client,
    wire::{self, Binding},
};

use self::options::{CreateFlags, UpdateFlags};
pub(super) use self::options::{Durability, FLAGS};
pub(super) use self::show::{preview, print_entries, print_purged};
use crate::cli::{
    output::{Format, Output},
    usage, value,
};

/// Create, show and change queues.
#[derive(Debug, Subcommand)]
pub(super) enum Queue {
    /// Create a queue and its dead-letter queue. With the same options again it changes nothing.
    Create {
        /// Its name. It gets what is published to the topic of this name.
        name: String,
        #[command(flatten)]
        flags: CreateFlags,
    },
    /// Show all queues.
    #[command(alias = "ls")]
    List {
        /// Only those whose name starts with this.
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show a queue with its options and figures.
    Show {
        /// Its name.
        name: String,
    },
    /// Change options of a queue while it works. What is not named stays.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        flags: UpdateFlags,
    },
    /// Delete a queue and its dead-letter queue with everything in them.
    Delete {
        /// Its name.
        name: String,
        /// Only when both are empty.
        #[arg(long)]
        if_empty: bool,
    },
    /// Remove what is waiting in a queue, oldest first. What is leased stays.
    Purge {
        /// Its name.
        name: String,
        /// So many at most; all when left out.
        #[arg(long, value_parser = value::positive)]
        limit: Option<u64>,
    },
    /// Stop deliveries; publishing goes on.
    Pause {
        /// Its name.
        name: String,
    },
    /// Let deliveries go on.
    Resume {
        /// Its name.
        name: String,
    },
    /// Look at entries and change nothing.
    Peek(Peek),
}

/// Look at entries and change nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Peek {
    /// The queue.
    name: String,
    #[command(flatten)]
    range: Range,
    /// Only entries in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
}

/// Which entries to show.
#[derive(Debug, clap::Args)]
pub(super) struct Range {
    /// So many at most.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Only entries after this one.
    #[arg(
        long,
        value_name = "ENTRY",
        default_value_t = 0,
        hide_default_value = true,
        value_parser = value::whole
    )]
    after: u64,
    /// Leave the payloads out.
    #[arg(long)]
    without_payload: bool,
}

impl Range {
    pub(super) fn request(&self, queue: String) -> wire::PeekEntriesRequest {
        wire::PeekEntriesRequest {
            queue,
            state: wire::EntryState::Unspecified.into(),
            after_entry_id: self.after,
            limit: self.limit,
            without_payload: self.without_payload,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Ready,
    Delayed,
    Leased,
}

impl Queue {
    /// Whether it takes no longer for a queue that holds a lot.
    pub(super) fn is_short(&self) -> bool {
        !matches!(self, Self::Delete { .. } | Self::Purge { .. })
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> anyhow::Result<()> {
        match self {
            Self::Create { name, flags } => create(client, output, name, &flags).await?,
            Self::List { prefix } => {
                show::print_queues(output, &client.list_queues(prefix).await?)?;
            }
            Self::Show { name } => show::print_queue(output, &client.get_queue(name).await?)?,
            Self::Update { name, flags } => update(client, output, name, &flags).await?,
            Self::Delete { name, if_empty } => {
                let deleted = client.delete_queue(name.clone(), if_empty).await?;
                show::print_deleted(output, &name, &deleted)?;
            }
            Self::Purge { name, limit } => {
                let purged = client.purge_queue(name, limit.unwrap_or(0)).await?;
                print_purged(output, purged)?;
            }
            Self::Pause { name } => changed(output, &client.pause_queue(name).await?, "paused")?,
            Self::Resume { name } => changed(output, &client.resume_queue(name).await?, "resumed")?,
            Self::Peek(peek) => {
                let entries = client.peek_entries(peek.request()).await?;
                print_entries(output, &entries)?;
            }
        }
        output.finish()?;
        Ok(())
    }
}

impl Peek {
    fn request(self) -> wire::PeekEntriesRequest {
        let state = match self.state {
            None => wire::EntryState::Unspecified,
            Some(State::Ready) => wire::EntryState::Ready,
            Some(State::Delayed) => wire::EntryState::Delayed,
            Some(State::Leased) => wire::EntryState::Leased,
        };
        wire::PeekEntriesRequest {
            state: state.into(),
            ..self.range.request(self.name)
        }
    }
}

async fn create(
    client: &Client,
    output: &mut Output,
    name: String,
    flags: &CreateFlags,
) -> anyhow::Result<()> {
    let options = flags.options();
    let paused = options.paused();
    let created = client.create_queue(name.clone(), options).await?;
    if output.format != Format::Table {
        output.message(&created)?;
    } else if created.created {
        output.line(&format!("created queue {name}"))?;
    } else {
        let queue = created.queue.unwrap_or_default();
        // The broker takes this for a state, and leaves it as it is.
        let but = match (paused, queue.options.unwrap_or_default().paused()) {
            (true, false) => ", and is not paused",
            (false, true) => ", and is paused",
            _ => "",
        };
        output.line(&format!(
            "queue {name} was there already, with the same options{but}"
        ))?;
    }
    Ok(())
}

async fn update(
    client: &Client,
    output: &mut Output,
    name: String,
    flags: &UpdateFlags,
) -> anyhow::Result<()> {
    let (mut options, mut paths) = flags.options();
    if flags.changes_bindings() {
        // The contract replaces bindings as a whole, so they are read first.
        let queue = client.get_queue(name.clone()).await?;
        let current = queue.options.unwrap_or_default().bindings;
        let missing = flags
            .unbind
            .iter()
            .find(|pattern| !current.iter().any(|binding| binding.pattern == **pattern));
        if let Some(pattern) = missing {
            bail!("queue {name:?} has no binding {pattern:?}");
        }
        options.bindings = bindings_after(current, flags);
        paths.push("bindings".to_owned());
    }
    if paths.is_empty() {
        return Err(usage(
            "nothing to update: name at least one option, as --lease 1m",
        ));
    }
    let updated = client.update_queue(name, options, paths).await?;
    changed(output, &updated.queue.unwrap_or_default(), "updated")
}

fn bindings_after(current: Vec<Binding>, flags: &UpdateFlags) -> Vec<Binding> {
    let mut bindings = if flags.clear_bindings {
        Vec::new()
    } else {
        current
    };
    bindings.retain(|binding| !flags.unbind.contains(&binding.pattern));
    for pattern in &flags.options.bind {
        if !bindings.iter().any(|binding| binding.pattern == *pattern) {
            bindings.push(Binding {
                pattern: pattern.clone(),
            });
        }
    }
    bindings
}

fn changed(output: &mut Output, queue: &wire::Queue, how: &str) -> anyhow::Result<()> {
    if output.format == Format::Table {
        output.line(&format!("{how} queue {}", queue.name))?;
    } else {
        output.message(queue)?;
    }
    Ok(())
}

//! Who works beside the publishers and consumers of a load: one redrives dead letters of each queue, one changes a queue.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use courser_proto::v1::{PeekEntriesRequest, RedriveEntriesRequest, admin_client::AdminClient};
use tokio::{task::JoinSet, time::sleep};
use tonic::{Code, Status, transport::Channel};

use crate::{
    broker::Broker,
    changes::Worker,
    history::{History, Mover, PLACES, Place, QUEUES},
    load::{Load, end},
    random::Random,
};

/// Milliseconds between two redrives of a queue, and how many entries one takes at most.
const REDRIVE_PAUSE: Range<u64> = 10..100;
const REDRIVEN_MAX: u64 = 3;

/// Who redrives and changes a queue beside the publishers and consumers of a load.
#[derive(Default)]
pub(crate) struct Others {
    tasks: JoinSet<()>,
    is_over: Arc<AtomicBool>,
}

impl Others {
    pub(crate) async fn start(
        broker: &Broker,
        history: &History,
        load: Load,
        random: &mut Random,
    ) -> Self {
        // What a large load leaves must not live.
        let may_change = !load.is_large();
        let mut others = Self::default();
        for place in 0..PLACES {
            let random = random.fork(200 + place as u64);
            if let Some(admin) = broker.admin().await {
                let is_over = others.is_over.clone();
                let redrive = redrive(admin, history.clone(), place, random, is_over);
                others.tasks.spawn(redrive);
            }
        }
        if may_change {
            others.change(broker, history, random).await;
        }
        others
    }

    /// Only who changes a queue. `None` when the broker is gone or does not tell how it is.
    pub(crate) async fn changing(
        broker: &Broker,
        history: &History,
        random: &mut Random,
    ) -> Option<Self> {
        let mut others = Self::default();
        others.change(broker, history, random).await?;
        Some(others)
    }

    async fn change(
        &mut self,
        broker: &Broker,
        history: &History,
        random: &mut Random,
    ) -> Option<()> {
        let worker = Worker::begin(broker, history, random.fork(300)).await?;
        self.tasks.spawn(worker.run(self.is_over.clone()));
        Some(())
    }

    /// Ends them in the middle of whatever they wait for.
    pub(crate) async fn stop(self) {
        end(self.tasks).await;
    }

    /// Ends them once what they asked is answered.
    pub(crate) async fn finish(mut self) {
        self.is_over.store(true, Ordering::Release);
        while let Some(done) = self.tasks.join_next().await {
            done.expect("a task of the load does not panic");
        }
    }
}

/// Now and then redrives a few of the oldest dead letters. Nobody else takes any.
async fn redrive(
    mut admin: AdminClient<Channel>,
    history: History,
    place: Place,
    mut random: Random,
    is_over: Arc<AtomicBool>,
) {
    let queue = format!("{}.dlq", QUEUES[place]);
    while !is_over.load(Ordering::Acquire) {
        sleep(Duration::from_millis(random.within(REDRIVE_PAUSE))).await;
        let request = PeekEntriesRequest {
            queue: queue.clone(),
            limit: random.within(1..REDRIVEN_MAX + 1) as u32,
            ..Default::default()
        };
        let entries = match admin.peek_entries(request).await {
            Ok(answer) => answer.into_inner().entries,
            Err(status) => return refused(&history, &status),
        };
        let letters = entries.iter().map(|entry| history.looked_at(place, entry));
        let Some(letters) = letters.collect::<Option<Vec<_>>>() else {
            return;
        };
        for letter in &letters {
            history.move_sent(place, *letter, Mover::Redrive);
        }
        if letters.is_empty() {
            continue;
        }
        let request = RedriveEntriesRequest {
            queue: queue.clone(),
            entry_ids: entries.iter().map(|entry| entry.entry_id).collect(),
            ..Default::default()
        };
        let redriven = match admin.redrive_entries(request).await {
            Ok(answer) => answer.into_inner().redriven,
            Err(status) => return refused(&history, &status),
        };
        if redriven == letters.len() as u64 {
            for letter in letters {
                history.moved(place, letter, Mover::Redrive);
            }
        } else if !history.was_hit() {
            history.violation(format!("{redriven} of {letters:?} were redriven"));
        }
    }
}

/// A look at entries or a redrive was refused: the broker is gone or its disk has failed.
fn refused(history: &History, status: &Status) {
    let codes = [
        Code::Unavailable,
        Code::Unknown,
        Code::Cancelled,
        Code::Internal,
    ];
    if !codes.contains(&status.code()) {
        history.violation(format!("a redrive was refused: {status:?}"));
    }
}

//! Faults under the real binary, with a history of everything and a judge over it.
//!
//! ```text
//!   load.rs   publishers and consumers --------> broker (broker.rs) + interposer (tests/interpose)
//!      |                                            ^   kill at a call, fail, delay, lie, record (control.rs)
//!      v                                            |
//!   history.rs  sent, confirmed, settled,      kill.rs  cut.rs  errno.rs  time.rs  slow.rs  flip.rs
//!      |        each with its event                 |
//!      v                                            v
//!   judge.rs  <----- what drain.rs finds ----- a broker without faults on what is left
//!                                              (rebuild.rs: on what a power cut may leave)
//! ```
//!
//! `message.rs` says what is sent, and compares it with what comes back.
//! `changes.rs` changes a queue beside the load, and judges it itself.
//!
//! `tests/faults/run` builds and runs it; `docs/durability.md` says what it shows.

#![expect(
    clippy::print_stdout,
    reason = "the seed, failures and closing figures"
)]

mod args;
mod broker;
mod changes;
mod control;
mod cut;
mod drain;
mod errno;
mod figures;
mod flip;
mod folder;
mod history;
mod judge;
mod kill;
#[path = "../../crash/letter.rs"]
mod letter;
mod load;
mod message;
mod others;
#[path = "../../crash/random.rs"]
mod random;
mod rebuild;
mod recording;
mod report;
mod round;
mod slow;
mod time;

use std::{process::ExitCode, sync::Arc};

use tokio::task::JoinSet;

use crate::{
    args::{Args, Class},
    broker::Programs,
    kill::Counts,
    random::Random,
    report::{Outcome, Sum},
    round::Starts,
};

/// What every round is given.
#[derive(Clone, Debug)]
struct Context {
    programs: Programs,
    starts: Arc<Starts>,
    counts: Arc<Counts>,
}

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(what) => {
            println!("error: {what}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if runtime.block_on(all(args)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs all classes; whether nothing was wrong.
async fn all(args: Args) -> bool {
    println!("seed {}", args.seed);
    let mut random = Random::new(args.seed);
    let starts = round::prepare(&args.programs, &mut random.fork(1)).await;
    let counts = match kill::count(&args.programs, &starts, &mut random.fork(2)).await {
        Ok(counts) => counts,
        Err(what) => {
            println!("error: {what}");
            return false;
        }
    };
    println!("calls without faults: {}", counts.text());
    let context = Context {
        programs: args.programs.clone(),
        starts: Arc::new(starts),
        counts: Arc::new(counts),
    };
    let (mut passed, mut failed) = (0, 0);
    for (class, rounds) in &args.rounds {
        // Each class has its own sequence, so that it can be repeated alone.
        let random = Random::new(args.seed ^ (*class as u64).wrapping_mul(0x9e37));
        let sum = class_rounds(&context, &args, *class, *rounds, random).await;
        println!("{class:?}: {}", sum.text());
        failed += sum.failed;
        if let Some(wrong) = sum.too_few_hits(*class) {
            println!("{wrong}");
            failed += 1;
        }
        passed += sum.rounds - sum.failed;
    }
    println!("{passed} passed, {failed} failed");
    // Nothing that was tried has shown nothing.
    failed == 0 && passed > 0
}

async fn class_rounds(
    context: &Context,
    args: &Args,
    class: Class,
    rounds: u64,
    mut random: Random,
) -> Sum {
    let mut sum = Sum::default();
    let mut running = JoinSet::new();
    // What is about time and waits must not compete.
    let jobs = if class.is_about_time() { 1 } else { args.jobs };
    for number in 0..rounds {
        let random = random.fork(number);
        if args.at.is_some_and(|at| at != number) {
            continue;
        }
        if running.len() >= jobs {
            take(&mut running, &mut sum, class).await;
        }
        let context = context.clone();
        running.spawn(async move { (number, one(context, class, number, random).await) });
    }
    while !running.is_empty() {
        take(&mut running, &mut sum, class).await;
    }
    sum
}

async fn take(running: &mut JoinSet<(u64, Outcome)>, sum: &mut Sum, class: Class) {
    let Some(done) = running.join_next().await else {
        return;
    };
    let (number, outcome) = done.expect("a round does not panic");
    sum.add(&outcome);
    if !outcome.wrong.is_empty() {
        println!(
            "{}",
            report::failure(&format!("{class:?}"), number, &outcome)
        );
    }
}

async fn one(context: Context, class: Class, number: u64, random: Random) -> Outcome {
    let Context {
        programs,
        starts,
        counts,
    } = &context;
    match class {
        Class::Kill => kill::run(programs, starts, counts, number, random).await,
        Class::Cut => cut::run(programs, starts, number, random).await,
        Class::Broken => cut::broken(programs, starts, number, random).await,
        Class::Errno => errno::run(programs, starts, number, random).await,
        Class::Stop => time::stop(programs, starts, random).await,
        Class::Clock => time::clock(programs, starts, random).await,
        Class::Slow => slow::run(programs, starts, number, random).await,
        Class::Flip => flip::run(programs, starts, number, random).await,
    }
}

//! Random operations against a plain reference model, with restarts at any moment.
//!
//! `invent` thinks of operations, `run` does them, and `judge` says what they must answer. What fails
//! prints its seed: `COURSER_SEED=7 cargo test -p courser-core --test model` does it again, and
//! `COURSER_ROUNDS=1000` tries more of them.

#[path = "../disk/mod.rs"]
mod disk;
mod invent;
mod judge;
mod run;

/// Seeds that every test run tries.
const ROUNDS: u64 = 20;

#[test]
fn random_operations_keep_every_promise() {
    match number("COURSER_SEED") {
        Some(seed) => run::run(seed),
        None => (0..number("COURSER_ROUNDS").unwrap_or(ROUNDS)).for_each(run::run),
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

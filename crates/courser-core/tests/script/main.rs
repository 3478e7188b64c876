//! The rules of queues as text scripts in virtual time; each test is named as the rule.

mod check;
mod commands;
#[path = "../disk/mod.rs"]
mod disk;
mod show;
mod world;

mod consumers;
mod dead_letters;
mod definitions;
mod leases;
mod looking;
mod names;
mod publishing;
mod purging;
mod restarts;
mod retries;
mod unsent;

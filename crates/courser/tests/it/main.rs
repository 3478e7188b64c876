//! The real binary: what it prints, and how it exits.

mod bench;
mod broker;
mod dead_letters;
mod files;
mod library;
mod messages;
mod offline;
mod queues;
mod ranges;
mod support;
mod usage;

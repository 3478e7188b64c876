//! The binary of Courser as a library: `serve`, so that tests can run a broker in their own process,
//! and the commands.

pub mod cli;
pub mod config;
pub mod files;
pub mod logging;
pub mod serve;

//! The engine over a store in memory, and over one that can be held up or made to fail.
//!
//! Nothing here sleeps: each test waits for what must happen.

mod alone;
mod consuming;
mod harness;
mod promises;
mod unsent;

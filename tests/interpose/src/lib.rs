//! A library that is loaded before libc (`LD_PRELOAD`) into a broker under test, and sees every call
//! that changes its data folder.
//!
//! ```text
//!   broker --write, fsync, rename, ...--> calls.rs --gate.rs: count, end here, fail, hold up--> kernel
//!                                            |
//!                                            +--> record.rs: what was done, in order
//!   harness <--- control page (control.rs): numbers that both sides read and write ---> here
//! ```
//!
//! Without `FAULT_FOLDER` and `FAULT_CONTROL` it passes everything on. Its unsafe code is explained in
//! `docs/decisions/0020-faults-by-interposing.md`.
#![allow(
    unsafe_code,
    reason = "C symbols are defined and system calls made: there is no safe way to stand before libc"
)]
#![allow(unreachable_pub, reason = "the loader reaches the C symbols")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of each C symbol is that of libc"
)]

mod calls;
mod clock;
mod control;
mod files;
mod gate;
mod paths;
mod raw;
mod record;

/// Runs when the library is loaded, before the program.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    control::open();
    record::open();
}

//! The real binary as a process of its own, and what is seen of a broker from outside: what the harnesses have in
//! common. How long anything may take, and what it means when it fails, is for each of them to say.

mod faces;
mod figures;
mod process;

pub use faces::{client, endpoint, figure, page, serves};
pub use figures::{Memory, memory, processor_time};
pub use process::{Addresses, FREE_PORT, LOOK, NotListening, Process, serve};

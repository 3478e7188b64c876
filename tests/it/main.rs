//! What Courser promises to its clients, one file per promise, over real gRPC on free ports.

mod harness;

mod arrival;
mod bad_input;
mod bad_settle;
mod consume;
mod counts;
mod credit;
mod dead_letter;
mod disconnect;
mod door;
mod drain;
mod faces;
mod large;
mod lease;
mod publish;
mod publish_stream;
mod pull;
mod queues;
mod restart;
mod routing;
mod settle;
mod shutdown;
mod streams;
mod tidy;

//! The systems compared, each through a client that costs little.

mod amqp;
pub(crate) mod courser;
pub(crate) mod nats;
pub(crate) mod rabbitmq;
pub(crate) mod redis;

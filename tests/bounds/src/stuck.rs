//! Consumers that take nothing, each of a message in sixty-four that came together; the others are acked.

use bytes::Bytes;
use courser_client::{Client, ConsumerOptions, Message, wire::PublishRequest};

use crate::{
    Context,
    broker::Broker,
    check::{MB, megabytes, told},
    load::{self, Consumers, Policy, numbered},
};

const STUCK: &str = "stuck";
const MOVING: &str = "moving";
/// As many as may each have all of their own bound.
const CONSUMERS: u64 = 8;
/// Together a MiB in each request.
const PAYLOAD: usize = 16 * 1024;
const TOGETHER: u64 = 64;
/// What each consumer has waiting is about its bound then, and what came with that is 2 GiB.
const REQUESTS: u64 = 2_048;
const SHORT_REQUESTS: u64 = 1_024;
const RESIDENT: u64 = 400 * MB;

pub(crate) async fn run(context: Context<'_>) -> anyhow::Result<()> {
    let Context {
        args,
        folder,
        checks,
    } = context;
    let requests = if args.short { SHORT_REQUESTS } else { REQUESTS };
    let broker = Broker::start(&args.broker, folder).await?;
    let client = broker.client().await?;
    load::create(&client, MOVING).await?;
    load::create_many(&client, STUCK, CONSUMERS).await?;
    let mut stuck = Vec::new();
    for number in 0..CONSUMERS {
        let client = Client::connect(&broker.url).await?;
        let options = ConsumerOptions {
            queue: numbered(STUCK, number),
            consumer: STUCK.to_owned(),
            max_messages: 10_000,
            max_bytes: 64 * 1024 * 1024,
            ..ConsumerOptions::default()
        };
        stuck.push(client.subscribe(options).await?);
    }
    let mut moving = Consumers::of(&broker.url, MOVING, Policy::Ack).await?;
    for request in 0..requests {
        client.publish(together(request)).await?;
    }
    moving.wait_for(requests * (TOGETHER - 1)).await?;
    let peak = broker.probe.take_peak();
    checks.size("resident at most", peak.all, RESIDENT);
    told("  of it anonymous", megabytes(peak.own));
    drop((stuck, moving));
    let (mut came, each) = (0, requests / CONSUMERS);
    for number in 0..CONSUMERS {
        let queue = numbered(STUCK, number);
        let mut consumers = Consumers::of(&broker.url, &queue, Policy::Ack).await?;
        consumers.wait_for(each).await?;
        came += consumers.received();
    }
    checks.holds("what was stuck came to others", came, came == requests);
    broker.end().await
}

fn together(request: u64) -> PublishRequest {
    let message = |number: u64| Message {
        topic: match number {
            0 => numbered(STUCK, request % CONSUMERS),
            _ => MOVING.to_owned(),
        },
        payload: Bytes::from(vec![number as u8; PAYLOAD]),
        ..Message::default()
    };
    PublishRequest {
        messages: (0..TOGETHER).map(message).collect(),
        mandatory: true,
        ..PublishRequest::default()
    }
}

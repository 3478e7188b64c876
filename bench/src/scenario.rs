//! What is measured, on which systems, and what is wanted of Courser.

use std::time::Duration;

use crate::shape::{Publish, Shape};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum SystemId {
    Courser,
    Redis,
    /// Redis with several connections for each producer: faster, and without order.
    #[value(name = "redis-pooled")]
    RedisPooled,
    Nats,
    #[value(name = "rabbitmq")]
    RabbitMq,
    /// RabbitMQ with one ack for many messages: not what is asked, but what it can do besides.
    #[value(name = "rabbitmq-multiple")]
    RabbitMqMultiple,
    Echo,
    Disk,
}

impl SystemId {
    pub(crate) const ALL: [Self; 8] = [
        Self::Courser,
        Self::Redis,
        Self::RedisPooled,
        Self::Nats,
        Self::RabbitMq,
        Self::RabbitMqMultiple,
        Self::Echo,
        Self::Disk,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Courser => "courser",
            Self::Redis => "redis",
            Self::RedisPooled => "redis-pooled",
            Self::Nats => "nats",
            Self::RabbitMq => "rabbitmq",
            Self::RabbitMqMultiple => "rabbitmq-multiple",
            Self::Echo => "echo",
            Self::Disk => "disk",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Courser => "Courser",
            Self::Redis => "Redis Streams",
            Self::RedisPooled => "Redis, 16 connections",
            Self::Nats => "NATS JetStream",
            Self::RabbitMq => "RabbitMQ",
            Self::RabbitMqMultiple => "RabbitMQ, multiple acks",
            Self::Echo => "limit: gRPC echo",
            Self::Disk => "limit: disk",
        }
    }

    pub(crate) fn is_limit(self) -> bool {
        matches!(self, Self::Echo | Self::Disk)
    }
}

/// What is looked at. The names stand in the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Rate,
    Megabytes,
    ConfirmP50,
    ConfirmP99,
    DeliveryP50,
    DeliveryP99,
    FillRate,
    DrainRate,
    ServerCpu,
    LoadCpu,
    Written,
    Memory,
}

impl Measure {
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Rate => "messages_per_second",
            Self::Megabytes => "megabytes_per_second",
            Self::ConfirmP50 => "confirm_p50_ms",
            Self::ConfirmP99 => "confirm_p99_ms",
            Self::DeliveryP50 => "delivery_p50_ms",
            Self::DeliveryP99 => "delivery_p99_ms",
            Self::FillRate => "fill_per_second",
            Self::DrainRate => "drain_per_second",
            Self::ServerCpu => "server_cpu_us_per_message",
            Self::LoadCpu => "load_cpu_us_per_message",
            Self::Written => "written_bytes_per_publish",
            Self::Memory => "memory_megabytes",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Rate => "messages/s",
            Self::Megabytes => "MB/s",
            Self::ConfirmP50 => "confirm p50, ms",
            Self::ConfirmP99 => "confirm p99, ms",
            Self::DeliveryP50 => "delivery p50, ms",
            Self::DeliveryP99 => "delivery p99, ms",
            Self::FillRate => "filling, messages/s",
            Self::DrainRate => "draining, messages/s",
            Self::ServerCpu => "server CPU, us/message",
            Self::LoadCpu => "load CPU, us/message",
            Self::Written => "written, bytes/publish",
            Self::Memory => "memory at most, MB",
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        !matches!(
            self,
            Self::Rate | Self::Megabytes | Self::FillRate | Self::DrainRate
        )
    }
}

/// What is wanted of Courser in a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// At least so many times what the peer has; later so many times.
    Times(Measure, SystemId, f64, f64),
    /// At most so many times what the peer has.
    AtMostTimes(Measure, SystemId, f64),
    /// Less than the peer has.
    Below(Measure, SystemId),
    /// At most so much.
    AtMost(Measure, f64),
    /// At least this part of the lower of the two limits.
    OfLimits(Measure, f64),
    /// At least so many times what Courser itself has in another scenario.
    OfOther(Measure, &'static str, Measure, f64),
    /// At most so many times that.
    AtMostOfOther(Measure, &'static str, Measure, f64),
}

/// How a scenario goes.
#[derive(Clone, Debug)]
pub(crate) enum Course {
    /// Publishing and consuming at once.
    Live(Shape),
    /// Publishing, and then consuming.
    Backlog(Shape),
}

/// What is measured together.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) course: Course,
    pub(crate) systems: &'static [SystemId],
    /// The first is drawn.
    pub(crate) measures: &'static [Measure],
    pub(crate) wanted: Vec<Wanted>,
}

use Measure as M;
use SystemId::{Courser, Disk, Echo, Nats, RabbitMq, RabbitMqMultiple, Redis, RedisPooled};

const PEERS: [SystemId; 3] = [Redis, Nats, RabbitMq];
const BROKERS: &[SystemId] = &[Courser, Redis, Nats, RabbitMq];
const WITH_LIMITS: &[SystemId] = &[Courser, Redis, Nats, RabbitMq, Echo, Disk];
const THROUGHPUT: &[SystemId] = &[
    Courser,
    Redis,
    RedisPooled,
    Nats,
    RabbitMq,
    RabbitMqMultiple,
    Echo,
    Disk,
];
const WITH_ECHO: &[SystemId] = &[Courser, Redis, Nats, RabbitMq, Echo];

const RATES: &[Measure] = &[
    M::Rate,
    M::Megabytes,
    M::ServerCpu,
    M::LoadCpu,
    M::ConfirmP50,
    M::ConfirmP99,
    M::DeliveryP99,
    M::Written,
    M::Memory,
];
const BYTE_RATES: &[Measure] = &[
    M::Megabytes,
    M::Rate,
    M::ServerCpu,
    M::LoadCpu,
    M::ConfirmP99,
    M::Written,
    M::Memory,
];
const CONFIRMS: &[Measure] = &[M::ConfirmP50, M::ConfirmP99, M::ServerCpu];
const STEADY: &[Measure] = &[
    M::DeliveryP99,
    M::DeliveryP50,
    M::ConfirmP50,
    M::ConfirmP99,
    M::Rate,
    M::ServerCpu,
    M::Memory,
];
const BACKLOG: &[Measure] = &[
    M::DrainRate,
    M::FillRate,
    M::ServerCpu,
    M::Written,
    M::Memory,
];

/// How long things take: everything in full, or just enough to see that it works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) run: Duration,
    /// The longest that filling a backlog may take.
    pub(crate) fill: Duration,
    /// Bytes of the large backlog and of the small one.
    pub(crate) backlog: [u64; 2],
    pub(crate) disk: Duration,
}

impl Times {
    pub(crate) fn full() -> Self {
        Self {
            warm_up: Duration::from_secs(2),
            run: Duration::from_secs(8),
            fill: Duration::from_secs(45),
            backlog: [10 << 30, 1 << 30],
            disk: Duration::from_secs(4),
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            warm_up: Duration::from_millis(500),
            run: Duration::from_secs(2),
            fill: Duration::from_secs(3),
            backlog: [256 << 20, 32 << 20],
            disk: Duration::from_secs(1),
        }
    }
}

fn cpu_below_peers() -> impl Iterator<Item = Wanted> {
    PEERS
        .into_iter()
        .map(|peer| Wanted::Below(M::ServerCpu, peer))
}

/// All scenarios, in the order in which they run.
pub(crate) fn all(times: &Times) -> Vec<Scenario> {
    let base = Shape {
        name: "bench",
        size: 1_024,
        producers: 4,
        consumers: 4,
        queues: 1,
        in_flight: 500,
        publish: Publish::For(times.run),
    };
    let mut scenarios = throughput(&base);
    scenarios.extend(latency(&base, times));
    scenarios.push(fan_out(&base));
    scenarios.extend(large(&base));
    scenarios.extend(backlogs(&base, times));
    scenarios
}

fn throughput(base: &Shape) -> Vec<Scenario> {
    let mut wanted_1k = vec![
        Wanted::Times(M::Rate, Redis, 3.0, 4.0),
        Wanted::Times(M::Rate, Nats, 4.5, 6.0),
        Wanted::Times(M::Rate, RabbitMq, 16.0, 22.0),
        Wanted::OfLimits(M::Rate, 0.7),
    ];
    wanted_1k.extend(cpu_below_peers());
    let mut wanted_100 = vec![
        Wanted::Times(M::Rate, Redis, 5.0, 8.0),
        Wanted::Times(M::Rate, Nats, 6.0, 10.0),
        Wanted::Times(M::Rate, RabbitMq, 30.0, 50.0),
    ];
    wanted_100.extend(cpu_below_peers());
    vec![
        Scenario {
            name: "throughput-1k",
            title: "1 KiB, 4 producers with 500 in flight each, 4 consumers, individual acks",
            course: Course::Live(base.clone()),
            systems: THROUGHPUT,
            measures: RATES,
            wanted: wanted_1k,
        },
        Scenario {
            name: "throughput-100b",
            title: "100 B, 4 producers with 500 in flight each, 4 consumers, individual acks",
            course: Course::Live(Shape {
                size: 100,
                ..base.clone()
            }),
            systems: THROUGHPUT,
            measures: RATES,
            wanted: wanted_100,
        },
    ]
}

fn latency(base: &Shape, times: &Times) -> Vec<Scenario> {
    let one = Shape {
        producers: 1,
        consumers: 0,
        in_flight: 1,
        ..base.clone()
    };
    let consumed = Shape {
        consumers: 1,
        ..one.clone()
    };
    let steady = Shape {
        publish: Publish::Paced {
            per_second: 5_000,
            time: times.run,
        },
        ..base.clone()
    };
    let confirms = || {
        vec![
            Wanted::AtMostTimes(M::ConfirmP50, Redis, 0.9),
            Wanted::AtMostTimes(M::ConfirmP50, RabbitMq, 0.45),
            Wanted::AtMostTimes(M::ConfirmP99, Redis, 0.9),
            Wanted::AtMostTimes(M::ConfirmP99, RabbitMq, 0.45),
            Wanted::AtMost(M::ConfirmP99, 1.0),
        ]
    };
    vec![
        Scenario {
            name: "one-in-flight",
            title: "1 KiB, one message in flight, nobody consuming: time to the confirm",
            course: Course::Live(one),
            systems: WITH_ECHO,
            measures: CONFIRMS,
            wanted: confirms(),
        },
        Scenario {
            name: "one-in-flight-consumed",
            title: "1 KiB, one message in flight, a consumer that acks each: time to the confirm",
            course: Course::Live(consumed),
            systems: WITH_ECHO,
            measures: CONFIRMS,
            wanted: Vec::new(),
        },
        Scenario {
            name: "steady",
            title: "1 KiB, 5,000 messages/s steady: from the intended publish to the delivery",
            course: Course::Live(steady),
            systems: WITH_ECHO,
            measures: STEADY,
            wanted: vec![
                Wanted::Below(M::DeliveryP99, RabbitMq),
                Wanted::Below(M::DeliveryP99, Redis),
                Wanted::Below(M::ServerCpu, Redis),
                Wanted::Below(M::ServerCpu, Nats),
                Wanted::Below(M::ServerCpu, RabbitMq),
            ],
        },
    ]
}

fn fan_out(base: &Shape) -> Scenario {
    Scenario {
        name: "fan-out",
        title: "1 KiB, one topic to 10 queues with a consumer each: deliveries in all",
        course: Course::Live(Shape {
            queues: 10,
            consumers: 1,
            ..base.clone()
        }),
        systems: WITH_ECHO,
        measures: &[
            M::Rate,
            M::ServerCpu,
            M::LoadCpu,
            M::ConfirmP99,
            M::DeliveryP99,
            M::Written,
            M::Memory,
        ],
        wanted: vec![
            Wanted::OfOther(M::Rate, "throughput-1k", M::Rate, 2.0),
            Wanted::AtMostOfOther(M::Written, "throughput-1k", M::Written, 1.5),
        ],
    }
}

fn large(base: &Shape) -> Vec<Scenario> {
    vec![
        Scenario {
            name: "large-64k",
            title: "64 KiB, 4 producers with 64 in flight each, 4 consumers",
            course: Course::Live(Shape {
                size: 64 * 1024,
                in_flight: 64,
                ..base.clone()
            }),
            systems: WITH_LIMITS,
            measures: BYTE_RATES,
            wanted: vec![Wanted::OfLimits(M::Megabytes, 0.5)],
        },
        Scenario {
            name: "large-4m",
            title: "4 MiB, 4 producers with 4 in flight each, 4 consumers",
            course: Course::Live(Shape {
                size: 4 * 1024 * 1024,
                in_flight: 4,
                ..base.clone()
            }),
            systems: WITH_LIMITS,
            measures: BYTE_RATES,
            wanted: vec![Wanted::OfLimits(M::Megabytes, 0.5)],
        },
    ]
}

fn backlogs(base: &Shape, times: &Times) -> Vec<Scenario> {
    let [large, small] = times.backlog;
    let backlog = |bytes: u64, time| {
        Course::Backlog(Shape {
            publish: Publish::UpTo {
                messages: bytes / base.size as u64,
                time,
            },
            ..base.clone()
        })
    };
    vec![
        Scenario {
            name: "backlog",
            title: "1 KiB, a backlog of 10 GiB filled and then drained",
            // Long enough for any disk.
            course: backlog(large, Duration::from_secs(1_800)),
            systems: &[Courser],
            measures: BACKLOG,
            wanted: vec![
                Wanted::OfOther(M::FillRate, "throughput-1k", M::Rate, 0.7),
                Wanted::OfOther(M::DrainRate, "throughput-1k", M::Rate, 0.7),
            ],
        },
        Scenario {
            name: "backlog-1g",
            title: "1 KiB, a backlog of 1 GiB, or what a minute fills, and then drained",
            course: backlog(small, times.fill),
            systems: BROKERS,
            measures: BACKLOG,
            wanted: Vec::new(),
        },
    ]
}

use std::sync::Arc;

use courser_core::{
    id::{Position, QueueId},
    options::{QueueDefinition, QueueOptions},
    stats::{QueueView, Totals},
    time::Timestamp,
};
use courser_engine::request::CommitStats;
use courser_store::Space;

use super::*;
use crate::limits;

fn queue(name: &str) -> QueueView {
    QueueView {
        definition: QueueDefinition {
            id: QueueId(1),
            name: Arc::from(name),
            options: QueueOptions::default(),
            created_at: Timestamp::ZERO,
            dead_letter_of: None,
            dead_letter_queue: None,
        },
        dead_letter_of: None,
        dead_letter_queue: None,
        ready: 3,
        delayed: 0,
        leased: 1,
        dead: 0,
        bytes: 1_024,
        oldest_ready_age: Some(Duration::from_millis(1_500)),
        oldest_leased_age: None,
        totals: Totals::default(),
        consumers: Vec::new(),
        publish_rate: 0.0,
        ack_rate: 0.0,
    }
}

fn snapshot(queues: Vec<QueueView>) -> Snapshot {
    Snapshot {
        queues,
        last_position: Position(12),
        started_at: Timestamp::from_micros(1_000_000),
        now: Timestamp::from_micros(3_000_000),
        usage: Default::default(),
        commits: CommitStats {
            groups: 4,
            ..CommitStats::default()
        },
        space: Space {
            free: 7_000,
            total: 100_000,
        },
        min_free: 5_000,
        failure: None,
    }
}

#[track_caller]
fn check(text: &str, line: &str) {
    assert!(
        text.lines().any(|l| l == line),
        "{line:?} is not in\n{text}"
    );
}

#[test]
fn the_figures_of_a_queue_have_its_name() {
    let mut orders = queue("orders");
    orders.totals.published = 5;
    orders.totals.count_dead_letter("max_attempts");
    orders
        .totals
        .processing_time
        .record(Duration::from_millis(20));
    let text = text(snapshot(vec![orders]), "1.2.3");
    check(&text, "courser_queue_ready{queue=\"orders\"} 3");
    check(
        &text,
        "courser_queue_oldest_ready_age_seconds{queue=\"orders\"} 1.5",
    );
    check(
        &text,
        "courser_queue_oldest_leased_age_seconds{queue=\"orders\"} 0.0",
    );
    check(&text, "courser_queue_published_total{queue=\"orders\"} 5");
    check(
        &text,
        "courser_queue_dead_lettered_total{queue=\"orders\",reason=\"max_attempts\"} 1",
    );
    check(
        &text,
        "courser_queue_processing_time_seconds_count{queue=\"orders\"} 1",
    );
    check(
        &text,
        "courser_queue_processing_time_seconds_bucket{le=\"0.01\",queue=\"orders\"} 0",
    );
    check(
        &text,
        "courser_queue_processing_time_seconds_bucket{le=\"0.025\",queue=\"orders\"} 1",
    );
    check(
        &text,
        "courser_queue_processing_time_seconds_bucket{le=\"+Inf\",queue=\"orders\"} 1",
    );
    assert!(
        !text.contains("courser_queue_time_in_queue_seconds_count"),
        "nothing was counted"
    );
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_broker_and_its_store_have_figures() {
    let text = text(snapshot(Vec::new()), "1.2.3");
    check(&text, "courser_build_info{version=\"1.2.3\"} 1");
    check(&text, "courser_last_position 12");
    check(&text, "courser_commit_groups_total 4");
    check(&text, "courser_commit_duration_seconds_count 0");
    check(&text, "courser_store_failed 0");
    check(&text, "courser_uptime_seconds 2");
    let mut failed = snapshot(Vec::new());
    failed.failure = Some("no space".to_owned());
    check(&super::text(failed, "1"), "courser_store_failed 1");
}

#[test]
fn queues_beyond_the_bound_are_summed_up() {
    let mut queues: Vec<_> = (0..limits::METRICS_QUEUES_MAX + 2)
        .map(|i| queue(&format!("q{i:06}")))
        .collect();
    queues.insert(0, queue("_other"));
    queues[limits::METRICS_QUEUES_MAX + 1]
        .totals
        .end_to_end_time
        .record(Duration::from_secs(1));
    let text = text(snapshot(queues), "1");
    check(&text, "courser_queue_ready{queue=\"q000000\"} 3");
    check(&text, "courser_queue_ready{queue=\"q009999\"} 3");
    check(&text, "courser_queue_ready{queue=\"_other\"} 9");
    check(
        &text,
        "courser_queue_oldest_ready_age_seconds{queue=\"_other\"} 1.5",
    );
    check(
        &text,
        "courser_queue_end_to_end_time_seconds_count{queue=\"_other\"} 1",
    );
    check(&text, "courser_queues 10003");
    check(&text, "courser_disk_free_bytes 7000");
    check(&text, "courser_disk_min_free_bytes 5000");
    assert!(!text.contains("q010000"));
}

#[test]
fn names_of_queues_are_quoted() {
    let text = text(snapshot(vec![queue("a\"b\\c")]), "1");
    check(&text, "courser_queue_ready{queue=\"a\\\"b\\\\c\"} 3");
}

//! Queues and their options.

use super::*;

#[test]
fn names_asked_for_may_be_dead_letter_queues_and_new_ones_may_not() {
    let name = |name: &str| queue_name_from_proto("name", name.to_owned());
    assert!(name("orders.dlq").is_ok());
    assert!(name(&format!("{}.dlq", "q".repeat(NAME_BYTES_MAX))).is_ok());
    assert!(name(&"q".repeat(NAME_BYTES_MAX + 1)).is_err());
    assert!(name(".dlq").is_err());
    let new = |name: &str| new_queue_name_from_proto("name", name.to_owned());
    assert!(new("orders").is_ok());
    assert_eq!(
        new("orders.dlq").unwrap_err().to_string(),
        "name must not end in '.dlq': that is the dead-letter queue of another queue"
    );
    assert!(
        new("a b")
            .unwrap_err()
            .to_string()
            .starts_with("name must not contain ' '")
    );
}

#[test]
fn options_left_out_take_their_defaults() {
    assert_eq!(
        new_queue_options_from_proto(None),
        Ok(QueueOptions::default())
    );
    let options = v1::QueueOptions {
        max_attempts: Some(0),
        backoff: Some(v1::Backoff {
            jitter: Some(0.0),
            ..v1::Backoff::default()
        }),
        dead_letter: Some(v1::DeadLetterOptions {
            enabled: Some(false),
        }),
        ..v1::QueueOptions::default()
    };
    let options = new_queue_options_from_proto(Some(options)).unwrap();
    assert_eq!((options.max_attempts, options.dead_letter), (0, false));
    assert_eq!(
        (options.backoff.jitter, options.backoff.multiplier),
        (0.0, 2.0)
    );
}

#[test]
fn options_come_back_as_they_went() {
    let options = QueueOptions {
        max_attempts: 3,
        paused: true,
        ..QueueOptions::default()
    };
    let there = queue_options_to_proto(&options);
    assert_eq!(new_queue_options_from_proto(Some(there)), Ok(options));
}

#[test]
fn options_outside_their_limits_are_refused_by_name() {
    let lease = |lease| {
        let options = v1::QueueOptions {
            lease: seconds(lease),
            ..v1::QueueOptions::default()
        };
        new_queue_options_from_proto(Some(options)).map_err(|error| error.to_string())
    };
    assert!(lease(1).is_ok());
    assert_eq!(
        lease(0).unwrap_err(),
        "options.lease must be from 1s to 12h"
    );
    assert!(
        lease(-1)
            .unwrap_err()
            .starts_with("options.lease must be a duration")
    );
    assert!(lease(43_201).is_err());
}

#[test]
fn bindings_are_sorted_and_told_apart() {
    let bindings = |patterns: &[&str]| v1::QueueOptions {
        bindings: patterns
            .iter()
            .map(|p| v1::Binding {
                pattern: (*p).to_owned(),
            })
            .collect(),
        ..v1::QueueOptions::default()
    };
    let options = new_queue_options_from_proto(Some(bindings(&["b.#", "a", "b.#"]))).unwrap();
    let patterns: Vec<_> = options
        .bindings
        .iter()
        .map(courser_core::name::Pattern::as_str)
        .collect();
    assert_eq!(patterns, ["a", "b.#"]);
    let error = new_queue_options_from_proto(Some(bindings(&["a", "b..c"]))).unwrap_err();
    assert_eq!(error.field, "options.bindings[1].pattern");
}

fn change(paths: &[&str], options: v1::QueueOptions) -> Result<QueueOptions, String> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let mask = Some(prost_types::FieldMask { paths });
    let change = options_change_from_proto(Some(options), mask).map_err(|e| e.to_string())?;
    let mut changed = QueueOptions {
        max_attempts: 3,
        paused: true,
        ..QueueOptions::default()
    };
    changed.backoff.max = Duration::from_secs(7);
    change(&mut changed);
    Ok(changed)
}

#[test]
fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let options = v1::QueueOptions {
        lease: seconds(60),
        backoff: Some(v1::Backoff {
            initial: seconds(2),
            ..v1::Backoff::default()
        }),
        ..v1::QueueOptions::default()
    };
    let changed = change(&["lease", "backoff.initial", "max_attempts"], options).unwrap();
    assert_eq!(changed.lease, Duration::from_secs(60));
    assert_eq!(
        changed.max_attempts, ATTEMPTS_DEFAULT,
        "named and not set: its default"
    );
    assert!(changed.paused, "not named: as it was");
    assert_eq!(changed.backoff.initial, Duration::from_secs(2));
    assert_eq!(changed.backoff.max, Duration::from_secs(7));
    let changed = change(&["backoff"], v1::QueueOptions::default()).unwrap();
    assert_eq!(changed.backoff, QueueOptions::default().backoff);
}

#[test]
fn an_update_needs_a_mask_of_known_paths() {
    let options = v1::QueueOptions::default;
    let error = change(&["lease", "nmae"], options()).unwrap_err();
    assert_eq!(error, "update_mask.paths[1] names no option: \"nmae\"");
    assert_eq!(
        change(&[], options()).unwrap_err(),
        "update_mask must name at least one option"
    );
    assert!(options_change_from_proto(None, None).is_err());
}

//! Figures that no clock and no memory can hold are wrong usage.

use crate::support::courser;

#[test]
fn figures_that_are_too_large_are_wrong_usage() {
    let huge = u64::MAX.to_string();
    for arguments in [
        &["bench", "--seconds", &huge][..],
        &["bench", "--size", &huge],
        &["bench", "--size", "15"],
        &["bench", "--count", &huge],
        &["dlq", "redrive", "q", "--rate", "5000000000000"],
        &["dlq", "redrive", "q", "--rate", &huge],
    ] {
        let said = courser(arguments).failed(2);
        assert!(said.contains("is not in"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_wait_may_be_as_long_as_it_can_be_written() {
    let (broker, _folder) = crate::support::broker();
    broker.courser(&["queue", "create", "q"]).done();
    broker.courser(&["publish", "q", "x"]).done();
    let wait = ["consume", "q", "--count", "1", "--wait", "300000000000y"];
    assert_eq!(broker.courser(&wait).done(), "x\n");
}

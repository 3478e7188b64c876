//! Durations between Rust and the wire.

use std::time::Duration;

/// What the wire carries for `duration`; one beyond its range becomes the longest there is.
#[must_use]
pub fn to_wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Below a billion, so it fits.
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// What `duration` of the wire means here; a negative one is zero.
#[must_use]
pub fn from_wire_duration(duration: &prost_types::Duration) -> Duration {
    match (
        u64::try_from(duration.seconds),
        u32::try_from(duration.nanos),
    ) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos.min(999_999_999)),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_the_way_there_and_back() {
        for duration in [
            Duration::ZERO,
            Duration::from_millis(1_500),
            Duration::from_secs(43_200),
        ] {
            assert_eq!(from_wire_duration(&to_wire_duration(duration)), duration);
        }
    }

    #[test]
    fn a_negative_duration_is_zero() {
        let negative = prost_types::Duration {
            seconds: -1,
            nanos: 0,
        };
        assert_eq!(from_wire_duration(&negative), Duration::ZERO);
    }
}

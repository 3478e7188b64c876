//! What may be a name, and what a pattern.

use courser_core::name::{NameError, Pattern, check_name};

#[test]
fn names_are_tokens_between_single_dots() {
    for name in [
        "a",
        "order.created",
        "Order-2_x/y:z",
        "ä.ö",
        "a.$b",
        "a.$$b.$.$$",
        "q.dlq",
    ] {
        assert_eq!(check_name(name), Ok(()), "{name:?}");
        assert!(Pattern::new(name).is_ok(), "{name:?} is a pattern too");
    }
}

#[test]
fn what_is_no_name_is_refused_with_the_reason() {
    let character = |character| NameError::Character { character };
    for (name, error) in [
        ("", NameError::Empty),
        (".", NameError::EmptyToken),
        (".a", NameError::EmptyToken),
        ("a.", NameError::EmptyToken),
        ("a..b", NameError::EmptyToken),
        ("$a", NameError::Dollar),
        ("a.*", character('*')),
        ("a#", character('#')),
        ("a b", character(' ')),
        ("a\u{a0}b", character('\u{a0}')),
        ("a\n", character('\n')),
        ("a\u{7f}", character('\u{7f}')),
    ] {
        assert_eq!(check_name(name), Err(error), "{name:?}");
    }
}

#[test]
fn a_name_has_at_most_255_bytes() {
    assert_eq!(check_name(&"n".repeat(255)), Ok(()));
    assert_eq!(
        check_name(&"n".repeat(256)),
        Err(NameError::TooLong { bytes: 256 })
    );
    assert_eq!(
        check_name(&"ä".repeat(128)),
        Err(NameError::TooLong { bytes: 256 })
    );
    assert_eq!(
        Pattern::new(&"n".repeat(256)),
        Err(NameError::TooLong { bytes: 256 })
    );
}

#[test]
fn a_wildcard_is_a_whole_token() {
    for pattern in ["*", "#", "a.*", "#.a.#", "*.*", "a.*.b.#"] {
        assert!(Pattern::new(pattern).is_ok(), "{pattern:?}");
    }
    for (pattern, error) in [
        ("", NameError::Empty),
        ("a*", NameError::Wildcard),
        ("a.b#.c", NameError::Wildcard),
        ("**", NameError::Wildcard),
        ("a..#", NameError::EmptyToken),
        ("#.", NameError::EmptyToken),
        ("$x.#", NameError::Dollar),
        ("a b.*", NameError::Character { character: ' ' }),
    ] {
        assert_eq!(Pattern::new(pattern), Err(error), "{pattern:?}");
    }
}

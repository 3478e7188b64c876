//! What was handed to connections and not taken by them, of all consumers together.
//!
//! Messages of 16 MB: 32 MiB is reached with three of them, 96 MiB with seven, 128 MiB with nine.

use crate::check::check;

#[test]
fn with_little_on_the_way_each_consumer_has_its_whole_window() {
    check(
        "
        queue q
        publish q 1..10:200000
        subscribe alice slow
        subscribe bob slow
        deliver -> alice: 1..5(1); bob: 6..10(1)
        ",
    );
}

#[test]
fn beyond_that_each_has_one_message_until_its_connection_took_it() {
    check(
        "
        queue q
        queue r
        publish q 1..3:16000000
        subscribe a slow credit=1
        subscribe b slow credit=1
        subscribe c slow credit=1
        deliver -> a: 1(1); b: 2(1); c: 3(1)
        publish r 11..13:200000
        subscribe alice r slow
        deliver -> alice: 11(1)
        taken alice 1
        deliver -> alice: 12(1)
        taken a 1
        deliver -> nothing
        taken alice 2
        deliver -> alice: 13(1)
        ",
    );
}

#[test]
fn small_messages_share_what_one_may_have() {
    check(
        "
        queue q
        queue r
        publish q 1..3:16000000
        subscribe a slow credit=1
        subscribe b slow credit=1
        subscribe c slow credit=1
        deliver -> a: 1(1); b: 2(1); c: 3(1)
        publish r 11..20:4000
        subscribe alice r slow
        deliver -> alice: 11..14(1)
        taken alice 1
        deliver -> alice: 15(1)
        ",
    );
}

#[test]
fn the_last_room_is_for_those_that_have_taken_before() {
    check(
        "
        queue q
        queue r
        publish r 50..53:100
        subscribe alice r credit=1
        deliver -> alice: 50(1)
        ack alice 50
        deliver -> alice: 51(1)
        publish q 1..20:16000000
        subscribe a slow credit=1
        subscribe b slow credit=1
        subscribe c slow credit=1
        subscribe d slow credit=1
        subscribe e slow credit=1
        subscribe f slow credit=1
        subscribe g slow credit=1
        subscribe h slow credit=1
        subscribe i slow credit=1
        subscribe j slow credit=1
        deliver -> a: 1(1); b: 2(1); c: 3(1); d: 4(1); e: 5(1); f: 6(1); g: 7(1)
        deliver -> nothing
        ack alice 51
        deliver -> alice: 52(1)
        subscribe carol r
        deliver -> nothing
        taken a 1
        deliver -> carol: 53(1); h: 8(1)
        taken b 1
        deliver -> i: 9(1)
        ",
    );
}

#[test]
fn when_all_room_is_taken_nobody_is_handed_anything() {
    check(
        "
        queue q
        publish q 0..20:16000000
        subscribe old slow credit=3
        deliver -> old: 0(1)
        taken old 1
        deliver -> old: 1(1)
        taken old 2
        ack old 0
        ack old 1
        subscribe a slow credit=1
        subscribe b slow credit=1
        subscribe c slow credit=1
        subscribe d slow credit=1
        subscribe e slow credit=1
        subscribe f slow credit=1
        subscribe g slow credit=1
        deliver -> old: 2(1); a: 3(1); b: 4(1); c: 5(1); d: 6(1); e: 7(1); f: 8(1)
        deliver -> nothing
        disconnect old
        deliver -> g: 2(1)
        ",
    );
}

#[test]
fn a_connection_that_takes_nothing_stays_while_nobody_waits_for_its_room() {
    check(
        "
        queue q lease=12h
        publish q 1..20:16000000
        subscribe a slow credit=1
        subscribe b slow credit=1
        subscribe c slow credit=1
        subscribe d slow credit=1
        deliver -> a: 1(1); b: 2(1); c: 3(1); d: 4(1)
        next -> 43200s
        1h stuck -> nobody
        ",
    );
}

#[test]
fn those_that_take_nothing_go_until_there_is_room_in_plenty() {
    check(
        "
        queue q lease=1h
        publish q 1..20:16000000
        subscribe a slow credit=2
        subscribe b slow credit=1
        subscribe c slow credit=1
        subscribe d slow credit=1
        subscribe e slow credit=1
        subscribe f slow credit=1
        subscribe g slow credit=1
        subscribe h slow credit=1
        deliver -> a: 1(1); b: 2(1); c: 3(1); d: 4(1); e: 5(1); f: 6(1); g: 7(1)
        9s stuck -> nobody
        taken a 1
        deliver -> h: 8(1); a: 9(1)
        10s stuck -> b, c, d, e, f, g
        disconnect b
        disconnect c
        disconnect d
        disconnect e
        disconnect f
        disconnect g
        subscribe carol slow
        deliver -> carol: 2(1)
        1h stuck -> nobody
        ",
    );
}

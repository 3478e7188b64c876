//! What was handed to connections and not taken by them, of all consumers together.
//!
//! Messages of 16 MB: 32 MiB is reached with three of them, 96 MiB with seven, 128 MiB with nine. A connection
//! has 15 s for one of them.

use std::time::Duration;

use courser_core::{broker::Progress, id::ConsumerId};

use crate::{
    check::{START, check},
    world::World,
};

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
        14s stuck -> nobody
        taken a 1
        deliver -> h: 8(1); a: 9(1)
        15s stuck -> b, c, d, e, f, g
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

#[test]
fn those_that_have_taken_nothing_have_a_little_of_the_last_room_all_together() {
    check(
        "
        queue q lease=1h
        queue r lease=1h
        publish q 1..7:100
        subscribe a slow credit=2
        subscribe b slow credit=2
        subscribe c slow credit=2
        subscribe d slow credit=2
        subscribe e slow credit=2
        subscribe f slow credit=2
        subscribe g slow credit=2
        deliver -> a: 1(1); b: 2(1); c: 3(1); d: 4(1); e: 5(1); f: 6(1); g: 7(1)
        taken a 1
        taken b 1
        taken c 1
        taken d 1
        taken e 1
        taken f 1
        taken g 1
        publish q 11..17:15000000
        deliver -> a: 11(1); b: 12(1); c: 13(1); d: 14(1); e: 15(1); f: 16(1); g: 17(1)
        publish r 21..26:3000000
        subscribe carol r slow credit=1 limit=1
        subscribe dave r slow credit=1 limit=1
        subscribe erin r slow credit=1 limit=1
        subscribe frank r slow credit=1 limit=1
        deliver -> carol: 21(1); dave: 22(1); erin: 23(1)
        1s deliver -> nothing
        taken carol 1
        2s deliver -> frank: 24(1)
        ",
    );
}

#[test]
fn a_connection_has_ten_seconds_for_what_is_small_and_more_for_what_is_large() {
    check(
        "
        queue q lease=1h
        queue r lease=1h
        publish q 1..2:60000000
        publish r 11:4000000
        subscribe a r slow credit=1
        deliver -> a: 11(1)
        subscribe b slow credit=1
        subscribe c slow credit=1
        deliver -> b: 1(1); c: 2(1)
        9s stuck -> nobody
        10s stuck -> a
        56s stuck -> a
        57s stuck -> a, b, c
        ",
    );
}

/// Runs commands of a script in a world that goes on afterwards.
#[track_caller]
fn run(world: &mut World, script: &str) {
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (command, expected) = line.split_once(" -> ").unwrap_or((line, ""));
        let answer = world.run(command, expected);
        let fits = expected.is_empty() && !answer.starts_with("error:");
        assert!(fits || answer == expected, "{line}: {answer}");
    }
}

fn after(script: &str) -> World {
    let mut world = World::default();
    run(&mut world, script);
    world
}

const SEVEN_ARE_HANDED_16_MB_EACH: &str = "
    queue q lease=1h
    subscribe a slow credit=1
    subscribe b slow credit=1
    subscribe c slow credit=1
    subscribe d slow credit=1
    subscribe e slow credit=1
    subscribe f slow credit=1
    subscribe g slow credit=1
    publish q 1..20:16000000
    deliver -> a: 1(1); b: 2(1); c: 3(1); d: 4(1); e: 5(1); f: 6(1); g: 7(1)
    ";

#[test]
fn what_connections_hold_of_consumers_that_are_gone_counts_and_is_cut_for() {
    let mut world = after(SEVEN_ARE_HANDED_16_MB_EACH);
    let id = |world: &World, name: &str| world.clients[name].id;
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        run(&mut world, &format!("disconnect {name}"));
        let id = id(&world, name);
        assert!(world.broker.handle_left(id, 16_000_000));
    }
    run(
        &mut world,
        "subscribe h slow credit=2
        deliver -> nothing
        14s stuck -> nobody",
    );
    // Some of it is taken: its time begins anew.
    let a = id(&world, "a");
    assert!(world.broker.handle_left(a, 15_000_000));
    run(&mut world, "15s stuck -> b, c, d, e, f");
    for name in ["b", "c", "d", "e", "f"] {
        let id = id(&world, name);
        assert!(world.broker.handle_left(id, 0));
        assert!(!world.broker.handle_left(id, 0));
    }
    run(
        &mut world,
        "deliver -> h: 1(1)
        1h stuck -> nobody",
    );
}

#[test]
fn a_connection_is_not_to_blame_for_what_the_broker_has_not_given_to_it() {
    let mut world = after(SEVEN_ARE_HANDED_16_MB_EACH);
    // Of a and b, the message waits in the broker; b does not ask for it. To c it was given.
    let [a, b, c] = ["a", "b", "c"].map(|name| world.clients[name].id);
    let progress = |id: ConsumerId| Progress {
        messages: 0,
        bytes: 0,
        held_bytes: if id == c { 16_000_000 } else { 0 },
        is_asking: id != b,
    };
    for second in 0..=15 {
        let (disk, now) = (&world.disk, START + Duration::from_secs(second));
        let pager = &mut |queue, number| disk.page(queue, number);
        world
            .broker
            .handle_timeout(now, pager, &mut |id| Some(progress(id)));
    }
    let stuck = world.broker.drain_stuck();
    assert!(!stuck.contains(&a), "{stuck:?}");
    assert_eq!(stuck, [b, c]);
}

use std::future::poll_fn;

use http_body::Body as _;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};
use tonic::Code;

use super::*;

/// Sends a body.
pub(crate) struct Sender(mpsc::UnboundedSender<Frame<Bytes>>);

impl Sender {
    pub(crate) fn send(&self, data: impl Into<Bytes>) {
        assert!(self.0.send(Frame::data(data.into())).is_ok());
    }

    fn send_trailers(&self) {
        let trailers = http::HeaderMap::new();
        assert!(self.0.send(Frame::trailers(trailers)).is_ok());
    }
}

/// A body whose frames come from the test.
pub(crate) struct Frames(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

fn body(arrivals: &Arrivals) -> (Sender, Arriving<Frames>) {
    body_of(arrivals, Calls::Subscribe)
}

/// One of a connection over which much comes already, and its sender.
pub(crate) fn body_of(arrivals: &Arrivals, calls: Calls) -> (Sender, Arriving<Frames>) {
    let (frames, receiver) = mpsc::unbounded_channel();
    let way = Way::default();
    for bytes in [way.coming(), way.unread()] {
        bytes.fetch_add(limits::COMING_BYTES_FREE + 1, Ordering::Relaxed);
    }
    let body = Arriving::new(Frames(receiver), arrivals.clone(), calls, &way);
    (Sender(frames), body)
}

async fn piece(body: &mut Arriving<Frames>) -> Result<usize, Status> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
    frame.unwrap().map(|frame| frame.into_data().unwrap().len())
}

/// All pieces of what comes next.
async fn next(body: &mut Arriving<Frames>) -> Result<usize, Status> {
    let mut bytes = piece(body).await?;
    while !body.rest.is_empty() {
        bytes += piece(body).await?;
    }
    Ok(bytes)
}

fn request(length: u8) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, length];
    bytes.resize(PREFIX_BYTES + usize::from(length), b'x');
    bytes
}

#[test]
fn what_has_come_is_counted_however_it_is_cut() {
    let stream = [request(3), request(0), request(20), request(1)].concat();
    for cut in 1..stream.len() {
        let mut partial = Partial::default();
        let whole = stream.chunks(cut).filter(|data| partial.add(data)).count();
        assert!((1..=4).contains(&whole), "{cut}");
        assert_eq!(partial.come, 0, "{cut}");
    }
    let mut partial = Partial::default();
    assert!(partial.add(&stream[..10]));
    assert_eq!(partial.come, 2);
    assert!(partial.add(&stream[10..30]));
    assert_eq!((partial.come, partial.length), (17, 20));
    let mut large = Partial::default();
    assert!(!large.add(&[0, 0x12, 0x34, 0x56, 0x78]));
    assert_eq!(large.length, 0x1234_5678);
}

#[tokio::test]
async fn a_piece_is_a_prefix_or_belongs_to_one_request() {
    let (frames, mut body) = body(&Arrivals::new(100));
    let stream = [request(3), request(0), request(20), request(1)].concat();
    let (first, second) = stream.split_at(20);
    for data in [first, second] {
        frames.send(data.to_vec());
    }
    for expected in [5, 3, 5, 5, 2, 18, 5, 1] {
        assert_eq!(piece(&mut body).await.unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_go_on_is_given_up() {
    let (frames, mut body) = body(&Arrivals::new(100));
    let start = Instant::now();
    for byte in &request(20)[..10] {
        frames.send(vec![*byte]);
        assert_eq!(next(&mut body).await.unwrap(), 1);
    }
    let given_up = next(&mut body).await.unwrap_err();
    assert_eq!(given_up.code(), Code::DeadlineExceeded);
    assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_drop_now_and_then_does_not_buy_time() {
    let (frames, mut body) = body(&Arrivals::new(100));
    let dripping = async {
        for byte in request(90) {
            frames.send(vec![byte]);
            sleep(Duration::from_secs(1)).await;
        }
    };
    let reading = async {
        loop {
            if let Err(status) = next(&mut body).await {
                return status;
            }
        }
    };
    let start = Instant::now();
    tokio::select! {
        () = dripping => panic!("it was read to its end"),
        status = reading => assert_eq!(status.code(), Code::DeadlineExceeded),
    }
    assert!(start.elapsed() <= limits::ARRIVAL_TIME_MAX + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn silence_between_requests_may_last() {
    let (frames, mut body) = body(&Arrivals::new(100));
    for _ in 0..3 {
        // In two pieces, so that the clock ran in between.
        let bytes = request(20);
        frames.send(bytes[..7].to_vec());
        assert_eq!(next(&mut body).await.unwrap(), 7);
        let late = async {
            sleep(Duration::from_secs(20)).await;
            frames.send(bytes[7..].to_vec());
        };
        let (rest, ()) = tokio::join!(next(&mut body), late);
        assert_eq!(rest.unwrap(), 18);
        let silence = tokio::time::timeout(Duration::from_secs(3_600), next(&mut body));
        assert!(silence.await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn all_together_hold_so_much_and_no_more() {
    let arrivals = Arrivals::new(100);
    let (first_frames, mut first) = body(&arrivals);
    let (second_frames, mut second) = body(&arrivals);
    let mut bytes = request(200);
    first_frames.send(bytes[..60].to_vec());
    second_frames.send(bytes[..41].to_vec());
    assert_eq!(next(&mut first).await.unwrap(), 60);
    let refused = next(&mut second).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(second);
    // One that is whole holds nothing, however large it is, and one that is gone neither.
    first_frames.send(bytes.split_off(60));
    assert_eq!(next(&mut first).await.unwrap(), 145);
    assert_eq!(arrivals.held(), 0);
    first_frames.send(request(9)[..8].to_vec());
    assert_eq!(next(&mut first).await.unwrap(), 8);
    assert_eq!(arrivals.held(), 8);
    drop(first);
    assert_eq!(arrivals.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_lies_unread_goes_when_others_soon_have_no_room() {
    let arrivals = Arrivals::new(100);
    let (frames, mut body) = body_of(&arrivals, Calls::PublishStream);
    let arrival = body.arrival();
    let hour = Duration::from_secs(3_600);
    let waited = async || tokio::time::timeout(hour, arrival.in_the_way()).await;
    // Behind a request that was whole, which is the stream's by now.
    frames.send([request(20), request(90)[..50].to_vec()].concat());
    assert_eq!(next(&mut body).await.unwrap(), 75);
    assert!(waited().await.is_err(), "there is room");
    let (others, mut other) = self::body(&arrivals);
    others.send(request(90)[..10].to_vec());
    assert_eq!(next(&mut other).await.unwrap(), 10);
    let start = Instant::now();
    assert_eq!(waited().await.unwrap().code(), Code::ResourceExhausted);
    assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
    // Nothing lies here any more.
    frames.send(request(90)[50..].to_vec());
    assert_eq!(next(&mut body).await.unwrap(), 45);
    others.send(request(90)[10..90].to_vec());
    assert_eq!(next(&mut other).await.unwrap(), 80);
    assert!(waited().await.is_err(), "it is another's");
}

#[tokio::test(start_paused = true)]
async fn who_begins_with_a_request_waits_for_room_for_what_becomes_of_it() {
    let arrivals = Arrivals::new(1_000);
    let (_frames, body) = body_of(&arrivals, Calls::PublishStream);
    let arrival = body.arrival();
    let most = limits::BECOMING_KIB_MAX as usize * 1024;
    let first = room(Some(&arrival), 2 * most).await;
    assert_eq!(arrivals.publishes.becoming().available_permits(), 0);
    let hour = Duration::from_secs(3_600);
    let much = limits::BECOMING_BYTES_FREE + 1;
    let waited = tokio::time::timeout(hour, room(Some(&arrival), much)).await;
    assert!(waited.is_err());
    assert!(
        room(Some(&arrival), much - 1).await.is_none(),
        "a little needs none"
    );
    drop(first);
    assert!(room(Some(&arrival), much).await.is_some());
    assert_eq!(arrivals.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_came_over_streams_and_lies_unread_is_bounded() {
    let arrivals = Arrivals::new(1_000);
    let (frames, mut body) = body_of(&arrivals, Calls::Subscribe);
    frames.send([request(3), request(4)].concat());
    assert_eq!(piece(&mut body).await.unwrap(), PREFIX_BYTES);
    assert_eq!(arrivals.waiting(), 17);
    let others = Place::new(&arrivals.unread_settles, &Arc::default());
    others.take(limits::WAITING_BYTES_MAX);
    for expected in [3, 5, 4] {
        assert_eq!(piece(&mut body).await.unwrap(), expected);
    }
    // All of that is read.
    assert_eq!(arrivals.waiting(), limits::WAITING_BYTES_MAX);
    others.take(1);
    frames.send(request(5));
    assert!(has_none(&mut body).await);
    // That time is ours; and as soon as there is room it is read.
    others.leave();
    assert_eq!(next(&mut body).await.unwrap(), 10);
    // Who keeps it from others for long is told.
    frames.send([request(3), request(4)].concat());
    assert_eq!(piece(&mut body).await.unwrap(), PREFIX_BYTES);
    others.take(limits::WAITING_BYTES_MAX);
    let start = Instant::now();
    let told = in_the_way(Some(&body.arrival())).await;
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_settle_waits_for_no_publish_and_brings_one_message() {
    let arrivals = Arrivals::new(1_000);
    let _full = fill(&arrivals);
    for calls in [Calls::Settle, Calls::Change, Calls::Pull] {
        let (frames, mut body) = body_of(&arrivals, calls);
        // One without a byte has come with its prefix.
        frames.send(request(0));
        assert_eq!(next(&mut body).await.unwrap(), PREFIX_BYTES);
        frames.send(request(1));
        let refused = next(&mut body).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

/// As much as may wait, and a byte.
fn fill(arrivals: &Arrivals) -> Place {
    let place = Place::new(&arrivals.publishes, &Arc::default());
    place.take(limits::WAITING_BYTES_MAX + 1);
    place
}

async fn has_none(body: &mut Arriving<Frames>) -> bool {
    let hour = Duration::from_secs(3_600);
    tokio::time::timeout(hour, next(body)).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_read_while_too_much_waits_for_the_engine() {
    let arrivals = Arrivals::new(100);
    for calls in [Calls::Publish, Calls::PublishStream] {
        let (frames, mut body) = body_of(&arrivals, calls);
        // In the midst of a request or before it, and that is not held against who sends.
        let bytes = request(20);
        for part in [&bytes[..7], &bytes[7..]] {
            frames.send(part.to_vec());
            let full = fill(&arrivals);
            assert!(has_none(&mut body).await, "{calls:?}");
            full.leave();
            assert_eq!(next(&mut body).await.unwrap(), part.len());
        }
        drop(body);
        assert_eq!((arrivals.waiting(), arrivals.held()), (0, 0));
    }
    let (frames, mut body) = body_of(&arrivals, Calls::Subscribe);
    let _full = fill(&arrivals);
    frames.send(request(20));
    assert_eq!(next(&mut body).await.unwrap(), 25);
    assert_eq!(arrivals.waiting(), limits::WAITING_BYTES_MAX + 1);
}

#[tokio::test(start_paused = true)]
async fn the_beginning_of_a_request_does_not_wait_for_other_streams_for_ever() {
    let arrivals = Arrivals::new(1_000);
    let (frames, mut body) = body_of(&arrivals, Calls::PublishStream);
    frames.send(request(90)[..50].to_vec());
    assert_eq!(next(&mut body).await.unwrap(), 50);
    let others = Place::new(&arrivals.unread, &Arc::default());
    others.take(limits::WAITING_BYTES_MAX + 1);
    frames.send(request(90)[50..].to_vec());
    let start = Instant::now();
    let given_up = next(&mut body).await.unwrap_err();
    assert_eq!(given_up.code(), Code::ResourceExhausted);
    assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
}

#[tokio::test(start_paused = true)]
async fn who_waits_sees_that_its_connection_has_less() {
    let arrivals = Arrivals::new(1_000);
    let _full = fill(&arrivals);
    let (frames, receiver) = mpsc::unbounded_channel();
    let (frames, way) = (Sender(frames), Way::default());
    let body = Frames(receiver);
    let mut body = Arriving::new(body, arrivals.clone(), Calls::PublishStream, &way);
    frames.send(request(90)[..50].to_vec());
    assert_eq!(next(&mut body).await.unwrap(), 50);
    way.coming()
        .fetch_add(limits::COMING_BYTES_FREE, Ordering::Relaxed);
    frames.send(request(90)[50..60].to_vec());
    assert!(has_none(&mut body).await);
    way.coming()
        .fetch_sub(limits::COMING_BYTES_FREE, Ordering::Relaxed);
    assert_eq!(next(&mut body).await.unwrap(), 10);
    // The hour was ours, and all of the time begins anew.
    let start = Instant::now();
    let given_up = next(&mut body).await.unwrap_err();
    assert_eq!(given_up.code(), Code::DeadlineExceeded);
    assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
}

#[tokio::test]
async fn of_other_calls_little_comes_at_once() {
    let most = limits::SMALL_FRAME_BYTES_MAX;
    for (bytes, refused) in [(most, None), (most + 1, Some(Code::InvalidArgument))] {
        let (frames, mut body) = body_of(&Arrivals::new(2 * most), Calls::Others);
        frames.send(vec![0; bytes]);
        let code = next(&mut body).await.err().map(|status| status.code());
        assert_eq!(code, refused);
    }
}

#[test]
fn all_methods_of_admin_are_known() {
    let all = FileDescriptorSet::decode(courser_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = all.file.iter().flat_map(|file| &file.service);
    let admin = services.clone().find(|service| service.name() == "Admin");
    let of = |method: &str| Calls::of(&format!("/courser.v1.Admin/{method}"));
    for method in &admin.unwrap().method {
        let looks = ["Get", "List", "Peek", "Watch"];
        let looks = looks.iter().any(|verb| method.name().starts_with(verb));
        let expected = if looks { Calls::Look } else { Calls::Change };
        assert_eq!(of(method.name()), expected, "{}", method.name());
    }
    assert_eq!(of("Other"), Calls::Others);
}

#[tokio::test(start_paused = true)]
async fn a_connection_over_which_little_comes_waits_for_no_other() {
    let arrivals = Arrivals::new(1_000_000);
    let _full = fill(&arrivals);
    let way = Way::default();
    let body = |calls| {
        let (frames, receiver) = mpsc::unbounded_channel();
        let body = Arriving::new(Frames(receiver), arrivals.clone(), calls, &way);
        (Sender(frames), body)
    };
    let coming = || way.coming().load(Ordering::Relaxed);
    let (frames, mut publish) = body(Calls::Publish);
    frames.send(request(200));
    assert_eq!(next(&mut publish).await.unwrap(), 205);
    assert_eq!(coming(), 205);
    drop(frames);
    let end = poll_fn(|context| Pin::new(&mut publish).poll_frame(context)).await;
    assert!(end.is_none());
    assert_eq!(coming(), 205, "it is not carried out");
    let (frames, mut much) = body(Calls::PublishStream);
    frames.send(vec![0, 0, 2, 0, 0]);
    assert_eq!(next(&mut much).await.unwrap(), PREFIX_BYTES);
    frames.send(vec![0; limits::COMING_BYTES_FREE]);
    assert_eq!(next(&mut much).await.unwrap(), limits::COMING_BYTES_FREE);
    frames.send(vec![0; 9]);
    assert!(has_none(&mut much).await, "that is not little");
    drop((publish, much));
    assert_eq!(coming(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_publish_arrives_until_its_body_ends_and_waits_until_it_is_answered() {
    let arrivals = Arrivals::new(100);
    let (frames, mut body) = body_of(&arrivals, Calls::Publish);
    frames.send(request(20));
    assert_eq!(next(&mut body).await.unwrap(), 25);
    assert_eq!((arrivals.waiting(), arrivals.held()), (0, 25));
    // It is looked whether it ends; it does, whatever else waits.
    let full = fill(&arrivals);
    drop(frames);
    assert!(
        poll_fn(|context| Pin::new(&mut body).poll_frame(context))
            .await
            .is_none()
    );
    full.leave();
    assert_eq!((arrivals.waiting(), arrivals.held()), (25, 0));
    let answering = body.place.clone();
    drop(body);
    assert_eq!(arrivals.waiting(), 25);
    drop(answering);
    assert_eq!(arrivals.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn trailers_end_a_publish_too() {
    let arrivals = Arrivals::new(100);
    let (frames, mut body) = body_of(&arrivals, Calls::Publish);
    frames.send(request(20));
    assert_eq!(next(&mut body).await.unwrap(), 25);
    frames.send_trailers();
    let trailers = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
    assert!(trailers.unwrap().unwrap().is_trailers());
    assert_eq!((arrivals.waiting(), arrivals.held()), (25, 0));
}

#[tokio::test(start_paused = true)]
async fn a_publish_whose_body_does_not_end_is_given_up() {
    let arrivals = Arrivals::new(100);
    let (frames, mut body) = body_of(&arrivals, Calls::Publish);
    frames.send(request(20));
    assert_eq!(next(&mut body).await.unwrap(), 25);
    let start = Instant::now();
    let given_up = next(&mut body).await.unwrap_err();
    assert_eq!(given_up.code(), Code::DeadlineExceeded);
    assert_eq!(start.elapsed(), limits::ARRIVAL_TIME_MAX);
    drop((frames, body));

    let (frames, mut body) = body_of(&arrivals, Calls::Publish);
    frames.send([request(20), request(1)].concat());
    let refused = next(&mut body).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    drop(body);
    assert_eq!((arrivals.waiting(), arrivals.held()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_stream_waits_until_the_stream_says_so() {
    let arrivals = Arrivals::new(100);
    let (frames, mut stream) = body_of(&arrivals, Calls::PublishStream);
    frames.send([request(20), request(30)].concat());
    for (bytes, waiting) in [([5, 20], 25), ([5, 30], 35)] {
        for expected in bytes {
            assert_eq!(piece(&mut stream).await.unwrap(), expected);
        }
        assert_eq!(arrivals.publishes.bytes(), waiting);
        stream.place.leave();
        assert_eq!(arrivals.publishes.bytes(), 0);
    }
}

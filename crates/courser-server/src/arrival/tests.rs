use std::future::poll_fn;

use http_body::Body as _;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};
use tonic::Code;

use super::*;

/// Sends a body.
struct Sender(mpsc::UnboundedSender<Frame<Bytes>>);

impl Sender {
    fn send(&self, data: impl Into<Bytes>) {
        assert!(self.0.send(Frame::data(data.into())).is_ok());
    }

    fn send_trailers(&self) {
        let trailers = http::HeaderMap::new();
        assert!(self.0.send(Frame::trailers(trailers)).is_ok());
    }
}

/// A body whose frames come from the test.
struct Frames(mpsc::UnboundedReceiver<Frame<Bytes>>);

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
    body_of(arrivals, Calls::Others)
}

fn body_of(arrivals: &Arrivals, calls: Calls) -> (Sender, Arriving<Frames>) {
    let (frames, receiver) = mpsc::unbounded_channel();
    let body = Arriving::new(Frames(receiver), arrivals.clone(), calls);
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
    let (frames, mut body) = body_of(&arrivals, Calls::Publishes);
    let arrival = Arrival {
        place: body.place.clone(),
        arrivals: arrivals.clone(),
    };
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
async fn the_last_piece_of_a_call_waits_for_room_for_what_becomes_of_it() {
    let arrivals = Arrivals::new(1_000);
    let all = limits::CALLS_KIB_MAX as usize;
    let (frames, mut body) = body_of(&arrivals, Calls::Call);
    let others = Arc::clone(&arrivals.room).try_acquire_many_owned(limits::CALLS_KIB_MAX);
    frames.send(request(20));
    assert_eq!(piece(&mut body).await.unwrap(), PREFIX_BYTES);
    // It is not held against who sends, and it has arrived all the time.
    assert!(has_none(&mut body).await);
    assert_eq!(arrivals.held(), 25);
    drop(others);
    assert_eq!(piece(&mut body).await.unwrap(), 20);
    drop(frames);
    let end = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
    assert!(end.is_none());
    assert_eq!(arrivals.held(), 0);
    let taken = limits::call_kib(25) as usize;
    assert_eq!(arrivals.room.available_permits(), all - taken);
    let answering = body.place.clone();
    drop(body);
    assert_eq!(arrivals.room.available_permits(), all - taken);
    drop(answering);
    assert_eq!(arrivals.room.available_permits(), all);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_no_publish_and_brings_one_message() {
    let arrivals = Arrivals::new(1_000);
    let _full = fill(&arrivals);
    let (frames, mut body) = body_of(&arrivals, Calls::Call);
    // One without a byte has come with its prefix.
    frames.send(request(0));
    assert_eq!(next(&mut body).await.unwrap(), PREFIX_BYTES);
    assert!(body.place.has_permit());
    frames.send(request(1));
    let refused = next(&mut body).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// As much as may wait, and a byte.
fn fill(arrivals: &Arrivals) -> Place {
    let place = Place::new(&arrivals.whole);
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
    for calls in [Calls::Publish, Calls::Publishes] {
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
    let (frames, mut body) = body_of(&arrivals, Calls::Others);
    let _full = fill(&arrivals);
    frames.send(request(20));
    assert_eq!(next(&mut body).await.unwrap(), 25);
    assert_eq!(arrivals.waiting(), limits::WAITING_BYTES_MAX + 1);
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
    let (frames, mut stream) = body_of(&arrivals, Calls::Publishes);
    frames.send([request(20), request(30)].concat());
    for (bytes, waiting) in [([5, 20], 25), ([5, 30], 35)] {
        for expected in bytes {
            assert_eq!(piece(&mut stream).await.unwrap(), expected);
        }
        assert_eq!(arrivals.waiting(), waiting);
        stream.place.leave();
        assert_eq!(arrivals.waiting(), 0);
    }
}

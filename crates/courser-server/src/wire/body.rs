//! The answers of a stream on their way out. Each write has bytes of its own, of its size: a buffer that a stream kept
//! from one to the next would be as much as the largest that it ever had, for each of ten thousand consumers, and
//! cold each time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use courser_frames::PREFIX_BYTES;
use http_body::Frame;
use tokio_stream::Stream;
use tonic::{Status, codegen::http::HeaderMap};

use super::WireMessage;
use crate::{leaving::Leaving, limits};

/// Room that a stream with nothing to write keeps: for what there is at once mostly.
const ANSWERS_KEPT: usize = 4;
const LENGTHS_KEPT: usize = 64;

/// The body of an answer that is a stream.
#[derive(Debug)]
pub(crate) struct AnswerBody<S, Answer> {
    stream: S,
    leaving: Leaving,
    /// What is written next.
    answers: Vec<(Answer, Measured)>,
    /// The lengths of all these.
    lengths: Vec<usize>,
    /// What comes after these.
    end: Option<Status>,
    is_over: bool,
}

#[derive(Debug)]
struct Measured {
    bytes: usize,
    /// Where its lengths end.
    lengths_end: usize,
}

impl<S, Answer> AnswerBody<S, Answer>
where
    S: Stream<Item = Result<Answer, Status>> + Unpin,
    Answer: WireMessage,
{
    /// The body, with what is kept going along.
    pub(crate) fn new(stream: S, leaving: Leaving) -> Self {
        Self {
            stream,
            leaving,
            answers: Vec::new(),
            lengths: Vec::new(),
            end: None,
            is_over: false,
        }
    }

    /// Takes what there is, up to a size, and writes it; pending if there is nothing.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.lengths.clear();
        let mut bytes = 0;
        while bytes < limits::ANSWERS_BYTES && self.end.is_none() {
            match Pin::new(&mut self.stream).poll_next(context) {
                Poll::Ready(Some(Ok(answer))) => {
                    let of_it = answer.measure(&mut self.lengths);
                    if of_it > limits::ANSWER_BYTES_MAX {
                        self.end = Some(too_large(of_it));
                        break;
                    }
                    bytes += PREFIX_BYTES + of_it;
                    let measured = Measured {
                        bytes: of_it,
                        lengths_end: self.lengths.len(),
                    };
                    self.answers.push((answer, measured));
                }
                Poll::Ready(Some(Err(status))) => self.end = Some(status),
                Poll::Ready(None) => self.end = Some(Status::ok("")),
                Poll::Pending if self.answers.is_empty() => {
                    self.keep_little();
                    return Poll::Pending;
                }
                Poll::Pending => break,
            }
        }
        if bytes == 0 {
            return Poll::Ready(None);
        }
        let data = self.write(bytes);
        Poll::Ready(Some(self.leaving.load(data)))
    }

    /// There is nothing: what was taken for much of it is given back.
    fn keep_little(&mut self) {
        self.answers.shrink_to(ANSWERS_KEPT);
        self.lengths.shrink_to(LENGTHS_KEPT);
    }

    /// Writes what was measured, which is this much.
    fn write(&mut self, bytes: usize) -> Bytes {
        let mut buffer = Vec::with_capacity(bytes);
        let mut lengths_from = 0;
        for (answer, measured) in self.answers.drain(..) {
            buffer.put_u8(0);
            // No answer is larger than `ANSWER_BYTES_MAX`.
            buffer.put_u32(measured.bytes as u32);
            let lengths = &self.lengths[lengths_from..measured.lengths_end];
            answer.write(lengths, &mut buffer);
            lengths_from = measured.lengths_end;
        }
        buffer.into()
    }

    fn poll_data_or_end(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.end.is_none()
            && let Some(data) = ready!(self.poll_data(context))
        {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        self.is_over = true;
        let status = self.end.take().unwrap_or_else(|| Status::ok(""));
        let mut trailers = HeaderMap::new();
        let added = status.add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }
}

/// Nothing that may be stored makes an answer as large as this.
fn too_large(bytes: usize) -> Status {
    let max = limits::ANSWER_BYTES_MAX;
    Status::internal(format!("an answer of {bytes} bytes; the most is {max}"))
}

impl<S, Answer> http_body::Body for AnswerBody<S, Answer>
where
    S: Stream<Item = Result<Answer, Status>> + Unpin,
    Answer: WireMessage + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = self.poll_data_or_end(context);
        self.leaving.note_asked(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::Waker,
    };

    use courser_core::{
        id::LeaseId,
        message::{Message, SharedMessage},
    };
    use courser_engine::request::{Delivery, Settled};
    use http_body::Body as _;

    use super::*;
    use crate::{convert::tests::full_delivery, wire::DeliveryFrame};

    /// What a stream has, polled one after the other; `None` is that there is nothing just then. Then it ends.
    type Polled = VecDeque<Option<Result<DeliveryFrame, Status>>>;

    struct Having(Polled);

    impl Stream for Having {
        type Item = Result<DeliveryFrame, Status>;

        fn poll_next(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Self::Item>> {
            match self.0.pop_front() {
                Some(Some(item)) => Poll::Ready(Some(item)),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn body(polled: impl Into<Polled>) -> AnswerBody<Having, DeliveryFrame> {
        AnswerBody::new(Having(polled.into()), Leaving::default())
    }

    fn poll(
        body: &mut AnswerBody<Having, DeliveryFrame>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    /// The bytes that come until there is nothing.
    fn data(body: &mut AnswerBody<Having, DeliveryFrame>) -> Vec<Bytes> {
        let mut all = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = poll(body) {
            all.push(frame.into_data().unwrap());
        }
        all
    }

    #[track_caller]
    fn check_ends(body: &mut AnswerBody<Having, DeliveryFrame>, code: tonic::Code) {
        let Poll::Ready(Some(Ok(frame))) = poll(body) else {
            panic!("there are no trailers");
        };
        let trailers = frame.into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), code);
        assert!(body.is_end_stream());
        assert!(matches!(poll(body), Poll::Ready(None)));
    }

    fn heartbeat() -> Option<Result<DeliveryFrame, Status>> {
        Some(Ok(DeliveryFrame::Heartbeat))
    }

    fn deliveries(sizes: &[usize]) -> DeliveryFrame {
        let one = full_delivery();
        let all = sizes.iter().map(|size| Delivery {
            message: SharedMessage::from(Message {
                payload: vec![7; *size].into(),
                ..Message::clone(&one.message)
            }),
            ..one.clone()
        });
        DeliveryFrame::Deliveries(all.collect())
    }

    /// The answers as they are written by themselves.
    fn expected(answers: &[DeliveryFrame]) -> Vec<u8> {
        let mut all = Vec::new();
        for answer in answers {
            let mut lengths = Vec::new();
            let bytes = answer.measure(&mut lengths);
            all.put_u8(0);
            all.put_u32(u32::try_from(bytes).unwrap());
            answer.write(&lengths, &mut all);
        }
        all
    }

    #[test]
    fn what_is_there_at_once_goes_out_together() {
        let settled = || {
            let ok = vec![LeaseId(1), LeaseId(2)];
            let refused = Vec::new();
            DeliveryFrame::Settled(Settled { ok, refused }, Vec::new())
        };
        let mut body = body([
            Some(Ok(settled())),
            Some(Ok(deliveries(&[10, 0, 2_000]))),
            heartbeat(),
            None,
            None,
        ]);
        let all = data(&mut body);
        assert_eq!(all.len(), 1);
        let answers = [
            settled(),
            deliveries(&[10, 0, 2_000]),
            DeliveryFrame::Heartbeat,
        ];
        assert_eq!(all[0], expected(&answers));
        check_ends(&mut body, tonic::Code::Ok);
    }

    #[test]
    fn what_comes_beyond_a_size_goes_out_by_itself() {
        let size = limits::ANSWERS_BYTES;
        let mut body = body([Some(Ok(deliveries(&[size]))), heartbeat(), None, None]);
        let all = data(&mut body);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], expected(&[deliveries(&[size])]));
        assert_eq!(all[1], expected(&[DeliveryFrame::Heartbeat]));
    }

    #[test]
    fn a_stream_with_nothing_to_write_keeps_little() {
        let mut many = vec![Some(Ok(deliveries(&[1; 1_000])))];
        many.extend((0..1_000).map(|_| heartbeat()));
        many.extend([None, None]);
        let mut body = body(many);
        while poll(&mut body).is_ready() {}
        assert!(body.answers.capacity() <= 2 * ANSWERS_KEPT);
        assert!(body.lengths.capacity() <= 2 * LENGTHS_KEPT);
    }

    #[test]
    fn a_refusal_comes_after_what_was_there_before_it() {
        let refusal = Status::not_found("queue `a` is gone");
        let mut body = body([heartbeat(), Some(Err(refusal))]);
        let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else {
            panic!("there are no bytes");
        };
        let data = frame.into_data().unwrap();
        assert_eq!(data, expected(&[DeliveryFrame::Heartbeat]));
        check_ends(&mut body, tonic::Code::NotFound);
    }

    #[test]
    fn the_connection_asks_from_when_there_is_nothing_until_it_has_any_frame() {
        let leaving = Leaving::default();
        let asking = Arc::<AtomicBool>::default();
        leaving.tell(Arc::clone(&asking));
        let having = Having([None, heartbeat(), None, None, heartbeat()].into());
        let mut body = AnswerBody::new(having, leaving);
        for asks in [true, false, true, false] {
            assert_eq!(poll(&mut body).is_pending(), asks);
            assert_eq!(asking.load(Ordering::SeqCst), asks);
        }
    }
}

//! The messages of a stream as both ends take them out of HTTP/2's frames: the same ones however they are cut, and
//! the very bytes that came.
#![no_main]

use bytes::Bytes;
use courser_frames::{FrameError, Gathered};
use libfuzzer_sys::fuzz_target;

const MESSAGE_BYTES_MAX: usize = 4096;

fn take_all(all: &[u8], frame: usize) -> Result<Vec<Bytes>, FrameError> {
    let mut gathered = Gathered::new(MESSAGE_BYTES_MAX);
    let mut taken = Vec::new();
    for (number, frame) in all.chunks(frame).enumerate() {
        gathered.add(Bytes::copy_from_slice(frame));
        while let Some(message) = gathered.take()? {
            // The server does so behind each, the client behind some.
            if number % 2 == 0 {
                gathered.let_go();
            }
            assert!(message.len() <= MESSAGE_BYTES_MAX);
            taken.push(message);
        }
    }
    gathered.end().map(|()| taken)
}

fuzz_target!(|data: &[u8]| {
    let Some((&frame, all)) = data.split_first() else {
        return;
    };
    let frame = usize::from(frame) + 1;
    let whole = take_all(all, all.len().max(1));
    assert_eq!(take_all(all, frame), whole);
    let Ok(messages) = whole else {
        return;
    };
    let mut written = Vec::new();
    for message in messages {
        written.push(0);
        written.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        written.extend_from_slice(&message);
    }
    assert_eq!(written, all);
});

//! The responses of a stream as the client reads them out of HTTP/2's frames: the same ones however they are cut, and
//! the very bytes that came.
#![no_main]

use courser_client::fuzz::read_frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&frame, all)) = data.split_first() else {
        return;
    };
    let frame = usize::from(frame) + 1;
    let whole = read_frames(all, all.len().max(1));
    assert_eq!(read_frames(all, frame), whole);
    let Ok(responses) = whole else {
        return;
    };
    let mut written = Vec::new();
    for response in responses {
        written.push(0);
        written.extend_from_slice(&u32::try_from(response.len()).unwrap().to_be_bytes());
        written.extend_from_slice(&response);
    }
    assert_eq!(written, all);
});

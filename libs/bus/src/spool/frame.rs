//! One message as it lies in a spool file, and how a file is read whose end is torn or whose middle is damaged.
//!
//! A file is [`FILE_HEADER`] and frames. A frame is `magic u32 | body bytes u32 | xxh3 u64 over both of what follows the
//! magic | body`, and the body `kept_ms u64 | stream u8 | subject bytes u16 | id bytes u16 | subject | id | payload`, all
//! little endian.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::SpoolMessage;
use crate::{StreamName, Subject};

/// How every file begins. Another version begins otherwise, and is left alone.
pub(super) const FILE_HEADER: &[u8; 8] = b"VLSPOOL1";
/// How every frame begins, so that the next one is found behind a damaged one.
const MAGIC: &[u8; 4] = b"\xF5VLf";
/// Magic, length and checksum.
const FRAME_HEADER_BYTES: usize = 16;
/// What a body has beside its texts and its payload.
const BODY_FIXED_BYTES: usize = 13;

/// A message and when it was kept, milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Framed {
    pub(super) message: SpoolMessage,
    pub(super) kept_ms: u64,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) found: Vec<Framed>,
    /// Bytes between good frames that are none.
    pub(super) damaged_bytes: usize,
    /// Bytes at the end that are no whole frame: its writer was killed while it wrote.
    pub(super) torn_bytes: usize,
}

/// Why a message cannot be framed: a text of it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unframeable;

/// Appends the frame of a message to `into`.
pub(super) fn encode(message: &SpoolMessage, kept_ms: u64, into: &mut Vec<u8>) -> Result<(), Unframeable> {
    let subject = message.subject.as_str().as_bytes();
    let id = message.id.as_bytes();
    let short = |text: &[u8]| u16::try_from(text.len()).map_err(|_| Unframeable);
    let (subject_bytes, id_bytes) = (short(subject)?, short(id)?);
    let body_bytes = BODY_FIXED_BYTES + subject.len() + id.len() + message.payload.len();
    let length = u32::try_from(body_bytes).map_err(|_| Unframeable)?.to_le_bytes();
    into.reserve(FRAME_HEADER_BYTES + body_bytes);
    into.extend_from_slice(MAGIC);
    into.extend_from_slice(&length);
    let checksum_at = into.len();
    into.extend_from_slice(&[0; 8]);
    let body_at = into.len();
    into.extend_from_slice(&kept_ms.to_le_bytes());
    into.push(number_of(message.stream));
    into.extend_from_slice(&subject_bytes.to_le_bytes());
    into.extend_from_slice(&id_bytes.to_le_bytes());
    into.extend_from_slice(subject);
    into.extend_from_slice(id);
    into.extend_from_slice(&message.payload);
    let checksum = checksum(&length, &into[body_at..]).to_le_bytes();
    into[checksum_at..body_at].copy_from_slice(&checksum);
    Ok(())
}

/// Reads everything behind the file's header.
pub(super) fn scan(frames: &Bytes) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    while at < frames.len() {
        if let Some((framed, length)) = decode(&frames.slice(at..)) {
            scan.found.push(framed);
            at += length;
            continue;
        }
        let next = (at + 1..frames.len()).find(|next| decode(&frames.slice(*next..)).is_some());
        let Some(next) = next else {
            scan.torn_bytes = frames.len() - at;
            break;
        };
        scan.damaged_bytes += next - at;
        at = next;
    }
    scan
}

/// The frame at the beginning of `bytes` and its length, when there is one.
fn decode(bytes: &Bytes) -> Option<(Framed, usize)> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    if &header[..4] != MAGIC {
        return None;
    }
    let length: [u8; 4] = header[4..8].try_into().expect("four bytes");
    let end = FRAME_HEADER_BYTES.checked_add(usize::try_from(u32::from_le_bytes(length)).ok()?)?;
    let body = bytes.get(FRAME_HEADER_BYTES..end)?;
    if header[8..] != checksum(&length, body).to_le_bytes() {
        return None;
    }
    Some((decode_body(&bytes.slice(FRAME_HEADER_BYTES..end))?, end))
}

fn decode_body(body: &Bytes) -> Option<Framed> {
    let fixed = body.get(..BODY_FIXED_BYTES)?;
    let short = |at: usize| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]]));
    let kept_ms = u64::from_le_bytes(fixed[..8].try_into().expect("eight bytes"));
    let id_at = BODY_FIXED_BYTES + short(9);
    let payload_at = id_at + short(11);
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let message = SpoolMessage {
        stream: stream_of(fixed[8])?,
        subject: Subject::new(text(body.get(BODY_FIXED_BYTES..id_at)?)?),
        id: text(body.get(id_at..payload_at)?)?,
        payload: body.slice(payload_at..),
    };
    Some(Framed { message, kept_ms })
}

fn checksum(length: &[u8; 4], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(length);
    hash.update(body);
    hash.digest()
}

fn number_of(stream: StreamName) -> u8 {
    match stream {
        StreamName::Requests => 1,
        StreamName::Usage => 2,
        StreamName::DeadLetters => 3,
    }
}

fn stream_of(number: u8) -> Option<StreamName> {
    [StreamName::Requests, StreamName::Usage, StreamName::DeadLetters]
        .into_iter()
        .find(|stream| number_of(*stream) == number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(id: &str, payload: Vec<u8>) -> Framed {
        Framed {
            message: SpoolMessage {
                stream: StreamName::Usage,
                subject: Subject::new("vl.usage.t"),
                id: id.to_owned(),
                payload: payload.into(),
            },
            kept_ms: 7,
        }
    }

    fn frames(all: &[Framed]) -> Vec<Vec<u8>> {
        let one = |framed: &Framed| {
            let mut bytes = Vec::new();
            encode(&framed.message, framed.kept_ms, &mut bytes).unwrap();
            bytes
        };
        all.iter().map(one).collect()
    }

    fn messages() -> impl Strategy<Value = Vec<Framed>> {
        let message = ("[a-z0-9]{0,40}", proptest::collection::vec(any::<u8>(), 0..200));
        proptest::collection::vec(message.prop_map(|(id, payload)| framed(&id, payload)), 1..8)
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(all in messages()) {
            let scan = scan(&frames(&all).concat().into());
            prop_assert_eq!((scan.damaged_bytes, scan.torn_bytes), (0, 0));
            prop_assert_eq!(scan.found, all);
        }

        #[test]
        fn a_torn_end_costs_its_frame_alone(all in messages(), cut in any::<proptest::sample::Index>()) {
            let frames = frames(&all);
            let whole = frames.concat();
            let length = cut.index(whole.len());
            let mut complete = 0;
            let fits = |frame: &&Vec<u8>| { complete += frame.len(); complete <= length };
            let count = frames.iter().take_while(fits).count();
            let kept: usize = frames[..count].iter().map(Vec::len).sum();
            let scan = scan(&Bytes::from(whole).slice(..length));
            prop_assert_eq!((scan.damaged_bytes, scan.torn_bytes), (0, length - kept));
            prop_assert_eq!(&scan.found, &all[..count]);
        }

        #[test]
        fn a_changed_byte_costs_its_frame_alone(
            all in messages(), place in any::<proptest::sample::Index>(), change in 1..=255_u8,
        ) {
            let frames = frames(&all);
            let mut whole = frames.concat();
            let changed = place.index(whole.len());
            whole[changed] ^= change;
            let mut end = 0;
            let hit = frames.iter().position(|frame| { end += frame.len(); changed < end }).unwrap();
            let scan = scan(&whole.into());
            let mut expected = all.clone();
            expected.remove(hit);
            prop_assert_eq!(scan.found, expected);
            prop_assert_eq!(scan.damaged_bytes + scan.torn_bytes, frames[hit].len());
        }

        #[test]
        fn garbage_is_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let length = bytes.len();
            let scan = scan(&bytes.into());
            prop_assert_eq!((scan.found.len(), scan.torn_bytes), (0, length));
        }
    }

    #[test]
    fn a_text_longer_than_its_length_field_is_refused() {
        let message = framed(&"x".repeat(70_000), Vec::new()).message;
        assert_eq!(encode(&message, 0, &mut Vec::new()), Err(Unframeable));
    }
}

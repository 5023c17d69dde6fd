//! The binary form of frames: reads back as written, is as it was, and no bytes make the decoder panic.

use std::fmt::Write as _;

use bytes::Bytes;
use proptest::prelude::*;
use vlinders_kv_transfer::{
    Attach, BlockSum, Frame, FrameError, HelloFrame, MAX_FRAME_BLOCKS, MAX_FRAME_BYTES, MAX_LAST_BYTES,
    Ready, Refusal, ReleaseOutcome, decode_frame, encode_frame,
};
use vlinders_types::{BlockId, RequestId, Ticket};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/frames.txt");

fn samples() -> Vec<(&'static str, Frame)> {
    let ticket = Ticket {
        number: 1,
        expires_ms: 2,
        mac: *b"sixteen bytes ok",
    };
    let (request, attempt) = (RequestId(0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10), 3);
    let sums = vec![
        BlockSum {
            block: BlockId(4),
            xxh3: 5,
        },
        BlockSum {
            block: BlockId(6),
            xxh3: u64::MAX,
        },
    ];
    let hello = HelloFrame {
        protocol: 1,
        incarnation: 2,
        peer_incarnation: 3,
        layout_hash: 4,
        block_bytes: 5,
    };
    let attach = Attach {
        ticket,
        request,
        attempt,
        block_count: 7,
        first_needed_block: 2,
    };
    let middle = Ready {
        number: 1,
        chunk: 0,
        first_index: 2,
        blocks: sums,
        last: None,
    };
    let end = Ready {
        number: 1,
        chunk: 1,
        first_index: 4,
        blocks: vec![],
        last: Some(Bytes::from_static(b"end")),
    };
    vec![
        ("hello", Frame::Hello(hello)),
        ("attach", Frame::Attach(attach)),
        ("refuse", Frame::Refuse(Refusal::TicketSpent)),
        ("ready", Frame::Ready(middle)),
        ("ready_last", Frame::Ready(end)),
        ("heartbeat", Frame::Heartbeat { number: 1 }),
        (
            "release",
            Frame::Release {
                request,
                attempt,
                outcome: ReleaseOutcome::BadChecksum,
            },
        ),
        (
            "settled",
            Frame::Settled {
                request,
                attempt,
                won: true,
            },
        ),
        ("abort", Frame::Abort { number: 1 }),
    ]
}

fn any_ready() -> impl Strategy<Value = Ready> {
    let sums = prop::collection::vec(any::<(u32, u64)>(), 0..40);
    let last = prop::option::of(prop::collection::vec(any::<u8>(), 0..100));
    (any::<u64>(), any::<u32>(), any::<u32>(), sums, last).prop_map(
        |(number, chunk, first_index, sums, last)| {
            let sums = sums.into_iter().map(|(block, xxh3)| BlockSum {
                block: BlockId(block),
                xxh3,
            });
            Ready {
                number,
                chunk,
                first_index,
                blocks: sums.collect(),
                last: last.map(Bytes::from),
            }
        },
    )
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let outcome = prop_oneof![
        Just(ReleaseOutcome::Ok),
        Just(ReleaseOutcome::Abort),
        Just(ReleaseOutcome::BadChecksum)
    ];
    let id = (any::<u128>(), any::<u32>()).prop_map(|(request, attempt)| (RequestId(request), attempt));
    let hello = any::<(u32, u64, u64, u64, u64)>().prop_map(
        |(protocol, incarnation, peer_incarnation, layout_hash, block_bytes)| HelloFrame {
            protocol,
            incarnation,
            peer_incarnation,
            layout_hash,
            block_bytes,
        },
    );
    let attach = (any::<(u64, u64, [u8; 16])>(), id.clone(), any::<(u32, u32)>()).prop_map(
        |((number, expires_ms, mac), (request, attempt), (block_count, first_needed_block))| Attach {
            ticket: Ticket {
                number,
                expires_ms,
                mac,
            },
            request,
            attempt,
            block_count,
            first_needed_block,
        },
    );
    prop_oneof![
        hello.prop_map(Frame::Hello),
        attach.prop_map(Frame::Attach),
        (1..=8_u8).prop_map(|code| Frame::Refuse(Refusal::from_code(code).expect("1 to 8 are codes"))),
        any_ready().prop_map(Frame::Ready),
        any::<u64>().prop_map(|number| Frame::Heartbeat { number }),
        any::<u64>().prop_map(|number| Frame::Abort { number }),
        (id.clone(), outcome).prop_map(|((request, attempt), outcome)| Frame::Release {
            request,
            attempt,
            outcome
        }),
        (id, any::<bool>()).prop_map(|((request, attempt), won)| Frame::Settled {
            request,
            attempt,
            won
        }),
    ]
}

proptest! {
    #[test]
    fn a_frame_reads_back_as_written(frame in any_frame(), tail in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut bytes = encode_frame(&frame).unwrap();
        let frame_bytes = bytes.len();
        prop_assert!(frame_bytes <= MAX_FRAME_BYTES);
        bytes.extend(tail);
        prop_assert_eq!(decode_frame(&bytes), Ok((frame, frame_bytes)));
    }

    #[test]
    fn every_beginning_of_a_frame_asks_for_more(frame in any_frame()) {
        let bytes = encode_frame(&frame).unwrap();
        for end in 0..bytes.len() {
            let Err(FrameError::Incomplete { needed_bytes }) = decode_frame(&bytes[..end]) else {
                return Err(TestCaseError::fail("a part is no frame"));
            };
            prop_assert!(end < needed_bytes && needed_bytes <= bytes.len());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_frame(&bytes);
    }

    #[test]
    fn no_body_panics(kind in 0..12_u8, body in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..100)) {
        let mut bytes = b"VLKV\x01".to_vec();
        bytes.extend([kind, 0, 0]);
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        if let Ok((frame, used)) = decode_frame(&bytes) {
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(encode_frame(&frame).unwrap(), bytes);
        }
    }

    #[test]
    fn no_spoiled_frame_panics_or_is_too_long(
        frame in any_frame(),
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_frame(&frame).unwrap();
        for (at, value) in spoils {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        match decode_frame(&bytes) {
            Ok((frame, used)) => prop_assert_eq!(encode_frame(&frame).unwrap(), &bytes[..used]),
            Err(FrameError::Incomplete { needed_bytes }) => prop_assert!(needed_bytes <= MAX_FRAME_BYTES),
            Err(_) => {}
        }
    }
}

#[test]
fn the_bytes_are_what_they_were() {
    let mut now = String::new();
    for (name, frame) in samples() {
        let bytes = encode_frame(&frame).unwrap();
        assert_eq!(decode_frame(&bytes), Ok((frame, bytes.len())), "{name}");
        write!(now, "{name} ").unwrap();
        bytes.iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
        now.push('\n');
    }
    if std::env::var_os("VLINDERS_RENEW").is_some() {
        std::fs::write(GOLDEN, &now).unwrap();
    }
    let then = std::fs::read_to_string(GOLDEN).expect("renew with VLINDERS_RENEW=1");
    assert_eq!(
        now, then,
        "peers of other builds read these bytes; renew only with a new version"
    );
}

#[test]
fn lengths_above_their_limits_are_refused_before_they_are_waited_for() {
    let sums = vec![
        BlockSum {
            block: BlockId(0),
            xxh3: 0
        };
        MAX_FRAME_BLOCKS + 1
    ];
    let ready = |blocks: &[BlockSum], last: usize| {
        let last = Some(Bytes::from(vec![0; last]));
        Frame::Ready(Ready {
            number: 0,
            chunk: 0,
            first_index: 0,
            blocks: blocks.to_vec(),
            last,
        })
    };
    let largest = encode_frame(&ready(&sums[1..], MAX_LAST_BYTES)).unwrap();
    assert_eq!(largest.len(), MAX_FRAME_BYTES);
    assert!(decode_frame(&largest).is_ok());
    assert_eq!(encode_frame(&ready(&sums, 0)), Err(FrameError::Length));
    assert_eq!(
        encode_frame(&ready(&[], MAX_LAST_BYTES + 1)),
        Err(FrameError::Length)
    );

    // The header alone tells.
    let mut header = largest[..12].to_vec();
    header[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_frame(&header), Err(FrameError::Length));

    // More blocks, or a longer state, than the body has.
    let small = encode_frame(&ready(&sums[..1], 4)).unwrap();
    for (at, value) in [
        (12 + 16, 2_u32),
        (12 + 16, u32::MAX),
        (12 + 20, 5),
        (12 + 20, u32::MAX - 1),
        (12 + 20, 3),
    ] {
        let mut spoiled = small.clone();
        spoiled[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(decode_frame(&spoiled), Err(FrameError::Length), "{value} at {at}");
    }
}

#[test]
fn foreign_bytes_are_refused_at_the_first_wrong_byte() {
    assert_eq!(decode_frame(b"G"), Err(FrameError::Magic));
    assert_eq!(decode_frame(b"VLKX"), Err(FrameError::Magic));
    let mut frame = encode_frame(&Frame::Heartbeat { number: 1 }).unwrap();
    frame[4] = 9;
    assert_eq!(decode_frame(&frame), Err(FrameError::Version(9)));
    frame[4..6].copy_from_slice(&[1, 99]);
    assert_eq!(decode_frame(&frame), Err(FrameError::Kind(99)));
}

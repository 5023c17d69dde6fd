//! Weight headers: sound ones read as the format's own library reads them, broken ones are refused by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use proptest::prelude::*;
use serde_json::{Value, json};
use vlinders_model::{ModelError, parse_header};

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn refusal(header: &Value, data_bytes: usize) -> String {
    parse_header("w", &file(&header.to_string(), &vec![0; data_bytes]))
        .unwrap_err()
        .to_string()
}

fn tensor(dtype: &str, shape: &[u64], begin: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})
}

#[test]
fn a_sound_header_reads_back() {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "b": tensor("BF16", &[2, 3], 4, 16),
        "a": tensor("F32", &[1], 0, 4),
        "none": tensor("F32", &[0, 7], 16, 16),
    });
    let text = format!("{header}   ");
    let content = file(&text, &[0; 16]);
    let read = parse_header("w", &content).unwrap();
    let start = 8 + text.len();
    assert_eq!(read["b"].bytes, start + 4..start + 16);
    assert_eq!(read["b"].shape, [2, 3]);
    assert_eq!(read.keys().collect::<Vec<_>>(), ["a", "b", "none"]);
}

#[test]
fn every_contradiction_is_named() {
    for (header, data_bytes, named) in [
        (json!({"a": tensor("F32", &[2], 0, 8)}), 7, "`a` ends at byte"),
        (
            json!({"a": tensor("F32", &[2], 0, 8)}),
            9,
            "1 bytes that belong to no tensor",
        ),
        (
            json!({"a": tensor("F32", &[2], 0, 4)}),
            4,
            "do not fit F32 of shape [2]",
        ),
        (json!({"a": tensor("F32", &[2], 8, 0)}), 8, "`a` has offsets 8..0"),
        (
            json!({"a": tensor("F32", &[1], 0, 4), "b": tensor("F32", &[1], 2, 6)}),
            6,
            "`b` overlaps",
        ),
        (
            json!({"a": tensor("F32", &[1], 0, 4), "b": tensor("F32", &[1], 8, 12)}),
            12,
            "`b` lies after a gap of 4",
        ),
        (
            json!({"a": tensor("F32", &[1], 4, 8)}),
            8,
            "`a` lies after a gap of 4",
        ),
        (json!({"a": tensor("Q4", &[1], 0, 4)}), 4, "unknown dtype `Q4`"),
        (
            json!({"a": tensor("F32", &[u64::MAX, u64::MAX], 0, 4)}),
            4,
            "impossible shape",
        ),
        (json!({"a": tensor("U8", &[u64::MAX], 0, u64::MAX)}), 4, "`a`"),
        (json!({"a": tensor("F32", &[1; 9], 0, 4)}), 4, "9 dimensions"),
        (
            json!({"a": {"dtype": "F32", "shape": [1]}}),
            4,
            "missing field `data_offsets`",
        ),
        (
            json!({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
            4,
            "broken header",
        ),
        (
            json!({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}}),
            4,
            "unknown field `x`",
        ),
        (json!([]), 0, "does not begin with `{`"),
    ] {
        let error = refusal(&header, data_bytes);
        assert!(
            error.starts_with("w: ") && error.contains(named),
            "{header}: {error}"
        );
    }
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let entry = tensor("F32", &[1], 0, 4);
    let error = parse_header("w", &file(&format!("{{\"a\":{entry},\"a\":{entry}}}"), &[0; 4])).unwrap_err();
    assert!(error.to_string().contains("`a` occurs twice"), "{error}");
}

#[test]
fn a_header_longer_than_the_file_or_the_limit_is_refused() {
    let error = |content: &[u8]| parse_header("w", content).unwrap_err().to_string();
    assert!(error(b"").contains("it has 0 bytes"));
    assert!(error(&[1, 2, 3]).contains("it has 3 bytes"));
    assert!(error(&[100, 0, 0, 0, 0, 0, 0, 0, b'{']).contains("truncated"));
    assert!(error(&[0xFF; 64]).contains("no safetensors file"));
    assert!(error(&file("", &[])).contains("does not begin"));
}

/// Headers that are nearly right: tensors laid out one after the other, then a few numbers changed.
fn nearly_sound() -> impl Strategy<Value = (String, usize)> {
    let dtypes = prop::sample::select(vec![("F32", 4), ("F16", 2), ("BF16", 2), ("U8", 1), ("I64", 8)]);
    let tensors = prop::collection::vec((dtypes, prop::collection::vec(0u64..5, 0..4)), 0..5);
    let nudge = (0..5usize, 0..3usize, -3i64..4);
    (tensors, prop::collection::vec(nudge, 0..3), -2i64..3).prop_map(|(tensors, nudges, slack)| {
        let mut offset = 0;
        let mut entries: Vec<(String, Value)> = Vec::new();
        for (index, ((dtype, bytes), shape)) in tensors.iter().enumerate() {
            let end = offset + shape.iter().product::<u64>() * bytes;
            entries.push((format!("t{index}"), tensor(dtype, shape, offset, end)));
            offset = end;
        }
        for (index, field, change) in nudges {
            let Some((_, entry)) = entries.get_mut(index) else {
                continue;
            };
            let place = match field {
                0 | 1 => entry["data_offsets"].get_mut(field),
                _ => entry["shape"].get_mut(0),
            };
            if let Some(place) = place {
                *place = json!(place.as_i64().unwrap() + change);
            }
        }
        let header = Value::Object(entries.into_iter().collect()).to_string();
        (
            header,
            usize::try_from((offset.cast_signed() + slack).max(0)).unwrap(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn headers_are_judged_as_the_formats_own_library_judges_them((header, data_bytes) in nearly_sound()) {
        let content = file(&header, &vec![7; data_bytes]);
        let ours = parse_header("w", &content);
        match (safetensors::SafeTensors::deserialize(&content), ours) {
            (Ok(theirs), Ok(ours)) => {
                prop_assert_eq!(theirs.len(), ours.len());
                for (name, view) in theirs.tensors() {
                    prop_assert_eq!(view.shape(), &ours[&name].shape[..]);
                    prop_assert_eq!(view.data(), &content[ours[&name].bytes.clone()]);
                }
            }
            (Err(_), Err(_)) => {}
            (theirs, ours) => prop_assert!(false, "{header}: {:?} against {ours:?}", theirs.err()),
        }
    }

    #[test]
    fn any_bytes_are_a_header_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0u8..255) {
        let _ = parse_header("w", &bytes);
        // A plausible length lets the rest reach the header's reader.
        if let Some(start) = bytes.get_mut(..8) {
            start.copy_from_slice(&u64::from(length).to_le_bytes());
        }
        let _ = parse_header("w", &bytes);
    }

    #[test]
    fn no_cut_or_flipped_byte_of_a_real_file_panics(cut in 0usize..3000, at in 0usize..3000, with: u8) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/llama/golden.safetensors");
        let mut content = std::fs::read(path).unwrap();
        let index = at % content.len();
        content[index] = with;
        let _ = parse_header("w", &content);
        content.truncate(cut);
        let error = parse_header("w", &content).unwrap_err();
        let expected = matches!(error, ModelError::Malformed { .. } | ModelError::Tensor { .. });
        prop_assert!(expected, "{}", error);
    }
}

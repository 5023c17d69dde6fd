//! Text to tokens and back, with both kinds of vocabulary.

#![allow(clippy::unwrap_used, reason = "test code")]

mod small;

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::json;
use small::{
    BOS, END, TOOL, byte_fallback, byte_fallback_json, byte_level, byte_level_json, load, metaspace_json,
};
use tokenizers::Tokenizer;
use vlinders_text::{ModelText, StreamDecoder, TextFiles, TextStep, TextStream};
use vlinders_types::{SpecialTokens, StopRules, TextRules, TokenId};

static BYTE_LEVEL: LazyLock<Arc<ModelText>> = LazyLock::new(byte_level);
static BYTE_FALLBACK: LazyLock<Arc<ModelText>> = LazyLock::new(byte_fallback);
static BYTE_LEVEL_ORACLE: LazyLock<Tokenizer> = LazyLock::new(|| oracle(&byte_level_json()));
static BYTE_FALLBACK_ORACLE: LazyLock<Tokenizer> = LazyLock::new(|| oracle(&byte_fallback_json()));

fn oracle(json: &serde_json::Value) -> Tokenizer {
    Tokenizer::from_bytes(json.to_string()).unwrap()
}

fn streamed(model: &Arc<ModelText>, prompt: &[TokenId], ids: &[TokenId]) -> String {
    let mut decoder = StreamDecoder::new(model, prompt);
    let mut text: String = ids.iter().map(|id| decoder.push(*id)).collect();
    text.push_str(&decoder.finish());
    text
}

proptest! {
    #[test]
    fn any_byte_level_tokens_stream_to_what_decoding_them_at_once_gives(
        ids in prop::collection::vec(prop_oneof![9 => 0_u32..262, 1 => Just(END), 1 => Just(TOOL), 1 => 264_u32..400], 0..40),
    ) {
        let expected = BYTE_LEVEL_ORACLE.decode(&ids, true).unwrap();
        prop_assert_eq!(streamed(&BYTE_LEVEL, &[], &ids), &expected[..]);
        prop_assert_eq!(BYTE_LEVEL.decode(&ids), expected);
    }

    #[test]
    fn tokens_of_a_text_give_the_text_again(text in "[ a-zéß漢🦋\n]{0,40}") {
        let ids = BYTE_LEVEL.encode(&text, true).unwrap();
        prop_assert_eq!(BYTE_LEVEL.decode(&ids), &text[..]);
        let ids = BYTE_FALLBACK.encode(&text, false).unwrap();
        prop_assert_eq!(BYTE_FALLBACK_ORACLE.decode(&ids, true).unwrap(), &text[..]);
        prop_assert_eq!(BYTE_FALLBACK.decode(&ids), text);
    }

    #[test]
    fn a_stream_goes_on_where_the_prompt_ends(prompt in "[a-z 🦋]{1,10}", ids in prop::collection::vec(256_u32..290, 0..20)) {
        let prompt_ids = BYTE_FALLBACK.encode(&prompt, true).unwrap();
        let all = [&prompt_ids[..], &ids].concat();
        let joined = BYTE_FALLBACK.decode(&prompt_ids) + &streamed(&BYTE_FALLBACK, &prompt_ids, &ids);
        prop_assert_eq!(joined, BYTE_FALLBACK.decode(&all));
    }

    #[test]
    fn stops_in_a_stream_are_those_of_the_whole_text(
        ids in prop::collection::vec(prop_oneof![Just(104_u32), Just(101), Just(256), Just(0xC3), Just(0xA9), Just(260), Just(END)], 0..30),
        stops in prop::collection::vec("[heé]{1,4}", 0..3),
    ) {
        let rules = StopRules { stop: stops.clone(), ..StopRules::default() };
        let mut stream = TextStream::new(&BYTE_LEVEL, &[], &rules, &TextRules::default());
        let (mut text, mut stop) = (String::new(), None);
        for id in &ids {
            let step = stream.push(*id);
            text.push_str(&step.text);
            stop = step.stop;
            if stop.is_some() {
                break;
            }
        }
        if stop.is_none() {
            text.push_str(&stream.finish());
        }
        let whole = BYTE_LEVEL.decode(&ids);
        let found = stops.iter().filter_map(|stop| whole.find(stop.as_str()).map(|start| (start + stop.len(), start, stop)));
        match found.min() {
            Some((_, start, stop_text)) => {
                prop_assert_eq!(text, &whole[..start]);
                prop_assert_eq!(&stop.unwrap().stop_text, stop_text);
            }
            None => prop_assert_eq!((text, stop), (whole, None)),
        }
    }
}

#[test]
fn an_incomplete_character_is_held_back_and_replaced_at_the_end() {
    let mut decoder = StreamDecoder::new(&BYTE_LEVEL, &[]);
    // A butterfly is F0 9F A6 8B; its first two bytes are one token here.
    assert_eq!(
        [261, 0xA6, 0x8B, 261].map(|id| decoder.push(id)),
        ["", "", "🦋", ""]
    );
    assert_eq!(decoder.finish(), "\u{FFFD}");
}

#[test]
fn a_character_begun_by_the_prompt_is_delivered_whole() {
    assert_eq!(streamed(&BYTE_LEVEL, &[104, 261], &[0xA6, 0x8B, 104]), "🦋h");
}

#[test]
fn special_tokens_have_no_text_but_other_added_ones_do() {
    assert_eq!(BYTE_LEVEL.decode(&[256, END, TOOL, 400]), "he<|tool|>");
    assert!(BYTE_LEVEL.is_special(END) && !BYTE_LEVEL.is_special(TOOL));
    assert_eq!(BYTE_LEVEL.vocabulary_size(), 264);
}

#[test]
fn token_bytes_are_exact() {
    let byte_fallback = |token| BYTE_FALLBACK.token_bytes(BYTE_FALLBACK.token_id(token).unwrap());
    assert_eq!(BYTE_LEVEL.token_bytes(259), b" w");
    assert_eq!(BYTE_LEVEL.token_bytes(261), [0xF0, 0x9F]);
    assert_eq!(BYTE_LEVEL.token_bytes(END), b"<|end|>");
    assert_eq!(BYTE_LEVEL.token_bytes(9999), b"");
    assert_eq!(byte_fallback("▁he"), b" he");
    assert_eq!(byte_fallback("<0x0A>"), b"\n");
}

#[test]
fn the_leading_space_belongs_to_the_tokenizer_only_at_the_beginning() {
    let ids = BYTE_FALLBACK.encode("hello", false).unwrap();
    assert_eq!(streamed(&BYTE_FALLBACK, &[], &ids), "hello");
    assert_eq!(streamed(&BYTE_FALLBACK, &[BOS], &ids), "hello");
    let prompt = BYTE_FALLBACK.encode("a", true).unwrap();
    assert_eq!(streamed(&BYTE_FALLBACK, &prompt, &ids), " hello");
}

#[test]
fn the_metaspace_decoder_drops_markers_of_the_first_token_only() {
    let model = load(&metaspace_json(), &json!({}));
    let oracle = oracle(&metaspace_json());
    let ids = ["▁he", "ll", "▁", "▁h"].map(|token| model.token_id(token).unwrap());
    for ids in [&ids[..], &ids[2..], &ids[3..]] {
        assert_eq!(model.decode(ids), oracle.decode(ids, true).unwrap());
    }
}

#[test]
fn the_beginning_token_is_never_doubled() {
    assert_eq!(BYTE_FALLBACK.encode("ab", true).unwrap()[0], BOS);
    let ids = BYTE_FALLBACK.encode("<s>ab", true).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == BOS).count(), 1);
    assert!(!BYTE_FALLBACK.encode("ab", false).unwrap().contains(&BOS));
    assert_eq!(
        (BYTE_FALLBACK.bos_id(), BYTE_FALLBACK.eos_ids()),
        (Some(BOS), &[2][..])
    );
}

#[test]
fn truncation_written_in_the_file_is_not_applied() {
    assert_eq!(BYTE_LEVEL.encode("xxxxxxxx", true).unwrap().len(), 8);
}

#[test]
fn text_held_back_for_a_stop_comes_out_at_the_end() {
    let rules = StopRules {
        stop: vec!["hex".to_owned()],
        ..StopRules::default()
    };
    let mut stream = TextStream::new(&BYTE_LEVEL, &[], &rules, &TextRules::default());
    assert_eq!(stream.push(256), TextStep::default());
    assert_eq!(stream.push(261), TextStep::default());
    assert_eq!(stream.finish(), "he\u{FFFD}");
}

#[test]
fn a_stop_text_is_delivered_to_whoever_wants_it() {
    let rules = StopRules {
        stop: vec!["lo".to_owned()],
        ..StopRules::default()
    };
    let wanted = TextRules {
        includes_stop: true,
        ..TextRules::default()
    };
    for (text, expected) in [(TextRules::default(), "hel"), (wanted, "hello")] {
        let mut stream = TextStream::new(&BYTE_LEVEL, &[], &rules, &text);
        let ids = BYTE_LEVEL.encode("hello there", false).unwrap();
        let delivered: String = ids.iter().map(|id| stream.push(*id).text).collect();
        assert_eq!(delivered, expected);
    }
}

#[test]
fn special_tokens_show_when_asked_for() {
    let ids: Vec<TokenId> = [TOOL, END, 104].to_vec();
    for (special, expected) in [
        (SpecialTokens::Hidden, "<|tool|>h"),
        (SpecialTokens::Shown(vec![END + 9]), "<|tool|>h"),
        (SpecialTokens::Shown(vec![END]), "<|tool|><|end|>h"),
        (SpecialTokens::AllShown, "<|tool|><|end|>h"),
    ] {
        let mut decoder = StreamDecoder::new(&BYTE_LEVEL, &[]).with_special(special);
        let text: String = ids.iter().map(|id| decoder.push(*id)).collect();
        assert_eq!(text, expected);
    }
}

#[test]
fn stops_do_not_count_before_the_least_number_of_tokens() {
    let rules = StopRules {
        stop: vec!["h".to_owned()],
        min_tokens: 2,
        ..StopRules::default()
    };
    let mut stream = TextStream::new(&BYTE_LEVEL, &[], &rules, &TextRules::default());
    let steps: Vec<TextStep> = [104, 104, 104].map(|id| stream.push(id)).to_vec();
    assert_eq!((steps[0].text.as_str(), steps[1].text.as_str()), ("h", "h"));
    assert_eq!(steps[2].stop.as_ref().unwrap().stop_text, "h");
}

#[test]
fn a_copy_of_a_stream_goes_on_alike() {
    let rules = StopRules {
        stop: vec!["llo w".to_owned()],
        ..StopRules::default()
    };
    let ids = BYTE_LEVEL.encode("hello word", false).unwrap();
    for cut in 0..ids.len() {
        let mut first = TextStream::new(&BYTE_LEVEL, &[], &rules, &TextRules::default());
        let mut second = TextStream::new(&BYTE_LEVEL, &[], &rules, &TextRules::default());
        for id in &ids[..cut] {
            assert_eq!(first.push(*id), second.push(*id));
        }
        let mut copy = first.clone();
        for id in &ids[cut..] {
            assert_eq!(copy.push(*id), second.push(*id));
        }
    }
}

#[test]
fn broken_files_are_named() {
    let tokenizer = byte_level_json().to_string();
    let good = TextFiles {
        tokenizer_json: tokenizer.as_bytes(),
        ..TextFiles::default()
    };
    let faults = [
        (
            TextFiles {
                tokenizer_json: b"{}",
                ..good
            },
            "tokenizer.json",
        ),
        (
            TextFiles {
                tokenizer_config: Some(b"["),
                ..good
            },
            "tokenizer_config.json",
        ),
        (
            TextFiles {
                generation_config: Some(b"{\"top_p\": -1}"),
                ..good
            },
            "generation_config.json",
        ),
        (
            TextFiles {
                config: Some(b"{\"eos_token_id\": \"x\"}"),
                ..good
            },
            "config.json",
        ),
        (
            TextFiles {
                chat_template_jinja: Some("{% if %}"),
                ..good
            },
            "chat template",
        ),
    ];
    for (files, name) in faults {
        let error = ModelText::load(&files).unwrap_err();
        assert!(
            error.to_string().starts_with(name) && !error.is_callers_fault(),
            "{error}"
        );
    }
}

#[test]
fn a_model_is_shared_between_threads() {
    const fn shared<T: Send + Sync + 'static>() {}
    shared::<ModelText>();
    shared::<TextStream>();
}

#[test]
fn a_text_of_its_own_neither_ends_the_prompts_character_nor_loses_its_first_space() {
    // The first two bytes of a character, as a prompt of token ids may end.
    let text = |decoder: StreamDecoder, ids: &[TokenId]| -> String {
        let mut decoder = decoder;
        let text: String = ids.iter().map(|id| decoder.push(*id)).collect();
        text + &decoder.finish()
    };
    let prompt = [0xE6, 0xBC];
    let (joined, apart) = (
        StreamDecoder::new(&BYTE_LEVEL, &prompt),
        StreamDecoder::new(&BYTE_LEVEL, &prompt),
    );
    assert_eq!(text(joined, &[0xA2, 97]), "漢a");
    assert_eq!(text(apart.apart_from_prompt(), &[97]), "a");
    let space = BYTE_FALLBACK.encode("a", false).unwrap();
    assert_eq!(text(StreamDecoder::new(&BYTE_FALLBACK, &[BOS]), &space), "a");
    let apart = StreamDecoder::new(&BYTE_FALLBACK, &[BOS]).apart_from_prompt();
    assert_eq!(text(apart, &space), " a");
}

//! How long the masks of a large vocabulary take: `cargo run --release -p vlinders-grammar --example mask_time`.
//! Prints, for several constraints, the time to compile them and the median and 99th percentile of one mask, over random
//! documents, and beside them the time to copy a mask, which is the least that one can cost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vlinders_grammar::{Budget, Compiler, TokenKind, TokenTable};
use vlinders_types::{Constraint, TokenId};

const VOCABULARY: usize = 128_256;
const MASKS: usize = 3000;

struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % count
    }
}

/// Bytes, and words of a few letters, half of them behind a space; some end in what JSON is made of.
fn words() -> Vec<Vec<u8>> {
    let mut dice = Dice(7);
    let mut words: BTreeSet<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    words.extend((0..1000).map(|number| number.to_string().into_bytes()));
    let ends = [
        "", "", "", "", "", "", "", "\"", "\",", "\":", "\"}", ".", ",", " ", "_", "ing",
    ];
    while words.len() < VOCABULARY - 1 {
        let mut word = if dice.below(2) == 0 {
            vec![b' ']
        } else {
            Vec::new()
        };
        word.extend(
            (0..2 + dice.below(7)).map(|_| b"etaoinshrdlucmfwypvbgkjqxz"[dice.below(26).min(dice.below(26))]),
        );
        word.extend(ends[dice.below(ends.len())].bytes());
        words.insert(word);
    }
    words.into_iter().collect()
}

fn main() {
    let words = words();
    let end = TokenId::try_from(VOCABULARY - 1).expect("a small number");
    let budget = Budget {
        time: None,
        threads: 1,
    };
    let source = move || {
        TokenTable::new(VOCABULARY, &[end], |id| match words.get(id as usize) {
            Some(word) => TokenKind::Text(word.clone()),
            None => TokenKind::Unused,
        })
    };
    let compiler = Compiler::new(source, budget);
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0,
        "maximum": 150}, "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}}, "address": {"type": "object",
        "properties": {"street": {"type": "string", "maxLength": 40}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
        "required": ["street", "zip"], "additionalProperties": false}}, "required": ["name", "age", "address"],
        "additionalProperties": false}"#;
    let begun = Instant::now();
    compiler
        .compile(&Constraint::Choice(vec!["a".to_owned()]))
        .expect("compiles");
    println!("table of {VOCABULARY} tokens: {:?}", begun.elapsed());
    let cases = [
        ("any object", Constraint::JsonObject),
        ("schema", Constraint::JsonSchema(schema.to_owned())),
        (
            "regex",
            Constraint::Regex(r"[A-Z][a-z]+( [a-z]+){3,30}\.".to_owned()),
        ),
    ];
    for (name, constraint) in cases {
        measure(&compiler, name, &constraint, end);
    }
}

fn measure(compiler: &std::sync::Arc<Compiler>, name: &str, constraint: &Constraint, end: TokenId) {
    let begun = Instant::now();
    let grammar = compiler.compile(constraint).expect("compiles");
    let compiling = begun.elapsed();
    let (mut dice, mut times, mut copies) = (Dice(3), Vec::new(), Vec::new());
    while times.len() < MASKS {
        let mut state = grammar.state(&[]);
        for _ in 0..200 {
            let begun = Instant::now();
            let Ok(mask) = state.mask() else { break };
            times.push(begun.elapsed());
            let begun = Instant::now();
            std::hint::black_box(mask.clone());
            copies.push(begun.elapsed());
            let allowed: Vec<TokenId> = mask.tokens_from(0).collect();
            let token = allowed[dice.below(allowed.len())];
            if token == end || state.advance(token).is_err() {
                break;
            }
        }
    }
    let (median, last) = percentiles(&mut times);
    let (copy, _) = percentiles(&mut copies);
    println!("{name}: compiled in {compiling:?}; a mask {median:?} (p99 {last:?}); a copy {copy:?}");
}

fn percentiles(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

//! Several answers to one prompt: their seeds, and which of them are told.

use std::cmp::Ordering;

use vlinders_openai_api::Choices;
use vlinders_types::TokenLogprob;

/// The seed of the choice of this index. The first one has the request's own.
pub(crate) fn seed_of_choice(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    // Any bijection that scatters neighbours does; this one is the finaliser of a 64-bit generator.
    let mut mixed = seed.wrapping_add(u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The answers that are told, by prompt: the most likely ones of each prompt's, most likely first. When all are told
/// they stay as they are.
pub(crate) fn best<T>(answers: Vec<T>, choices: Choices, logprobs: impl Fn(&T) -> &[TokenLogprob]) -> Vec<T> {
    if choices.computed == choices.told {
        return answers;
    }
    let mut told = Vec::new();
    let mut answers = answers.into_iter();
    loop {
        let mut group: Vec<T> = answers.by_ref().take(choices.computed as usize).collect();
        if group.is_empty() {
            return told;
        }
        let by_likelihood = |left: &T, right: &T| {
            let (left, right) = (likelihood(logprobs(left)), likelihood(logprobs(right)));
            right.partial_cmp(&left).unwrap_or(Ordering::Equal)
        };
        // Stable: of equally likely ones the first.
        group.sort_by(by_likelihood);
        group.truncate(choices.told as usize);
        told.append(&mut group);
    }
}

/// Mean log-probability of a token.
fn likelihood(logprobs: &[TokenLogprob]) -> f64 {
    if logprobs.is_empty() {
        return f64::NEG_INFINITY;
    }
    let sum: f64 = logprobs.iter().map(|token| f64::from(token.logprob)).sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "an answer has far fewer than 2^52 tokens"
    )]
    let count = logprobs.len() as f64;
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_seeds_of_their_own_and_the_first_has_the_clients() {
        let seeds: std::collections::HashSet<u64> = (0..8).map(|index| seed_of_choice(7, index)).collect();
        assert_eq!(seeds.len(), 8);
        assert_eq!(seed_of_choice(7, 0), 7);
        assert_ne!(seed_of_choice(8, 1), seed_of_choice(7, 1));
    }

    #[test]
    fn the_likeliest_of_each_prompt_are_told_and_length_is_no_merit() {
        let tokens = |logprobs: &[f32]| -> Vec<TokenLogprob> {
            let token = |logprob: &f32| TokenLogprob {
                id: 0,
                bytes: Vec::new(),
                logprob: *logprob,
                top: Vec::new(),
            };
            logprobs.iter().map(token).collect()
        };
        let answers = vec![
            ("a", tokens(&[-1.0, -1.0, -1.0])),
            ("b", tokens(&[-2.0])),
            ("c", tokens(&[-0.5, -0.5])),
            ("d", tokens(&[-3.0])),
            ("e", tokens(&[])),
            ("f", tokens(&[-4.0])),
        ];
        let choices = Choices { told: 2, computed: 3 };
        let told = best(answers, choices, |answer| &answer.1);
        let names: Vec<&str> = told.iter().map(|answer| answer.0).collect();
        assert_eq!(names, ["c", "a", "d", "f"]);
    }
}

//! The order of things: adjust, filter, draw, report.

use vlinders_types::{Sampled, SamplingParams, TokenId, TokenMask, TokenScore};

use crate::adjust::Adjustments;
use crate::filter::{FilterScratch, Row, keep, keeps_all};
use crate::logprob::Distribution;
use crate::philox::random_bits;
use crate::rank::{RankScratch, Ranked, rank_of, token_at};
use crate::scan::{BLOCK, Peak, first_of_largest, scan};
use crate::weight::Weigher;

/// How one token is to be drawn.
#[derive(Clone, Copy, Debug)]
pub struct SampleInput<'a> {
    /// The request's wishes.
    pub params: &'a SamplingParams,
    /// All tokens before the drawn one. May be empty when `params.needs_history()` is false.
    pub history: &'a [TokenId],
    /// How many of the history's tokens are prompt.
    pub prompt_tokens: u32,
    /// Tokens that may not be drawn. Sorted.
    pub banned: &'a [TokenId],
    /// When given, only these tokens may be drawn. Where all of them are banned, the bans do not count.
    pub allowed: Option<&'a TokenMask>,
    /// Position the drawn token will have; keys the generator together with the seed.
    pub position: u32,
}

/// Draws tokens. Holds scratch memory only: two samplers give the same results, and the order of calls does not matter.
#[derive(Debug, Default)]
pub struct Sampler {
    maxima: Vec<f32>,
    adjustments: Adjustments,
    /// A row without the logits that are not allowed.
    masked: Vec<f32>,
    filter: FilterScratch,
    rank: RankScratch,
    kept: Vec<Ranked>,
    block_sums: Vec<u64>,
}

impl Sampler {
    /// A sampler; it grows to the vocabulary it meets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws one token from `logits`, `[vocabulary]`: mask, bans and biases, repetition penalty, presence and frequency
    /// penalties, temperature, then top-k, min-p and top-p. A temperature of 0 takes the most likely token, of equals
    /// the one with the lowest id. Log-probabilities are those of the unmodified logits, which are the same after the
    /// call as before it.
    ///
    /// None when a logit is NaN or +infinity, or no token is left to draw.
    pub fn sample(&mut self, logits: &mut [f32], input: SampleInput<'_>) -> Option<Sampled> {
        let distribution = match input.params.logprobs {
            Some(count) => {
                let peak = scan(logits, &mut self.maxima)?;
                let (rank, kept) = (&mut self.rank, &mut self.kept);
                Some((
                    peak,
                    Distribution::read(logits, &self.maxima, peak, usize::from(count), rank, kept),
                ))
            }
            None => None,
        };
        let index = match input.allowed {
            None => {
                let peak = distribution.as_ref().map(|(peak, _)| *peak);
                self.draw_adjusted(logits, input, peak)
            }
            Some(allowed) => {
                if distribution.is_none() {
                    // Also a number that may not be drawn tells of a spoiled row.
                    scan(logits, &mut self.maxima)?;
                }
                self.draw_allowed(logits, input, allowed)
            }
        }?;
        let logprobs =
            distribution.map(|(_, distribution)| (distribution.logprob(logits[index]), distribution.top));
        Some(Sampled {
            token: token_at(index),
            logprobs,
        })
    }

    /// The index of the drawn token among those of the mask. The logits stay as they are.
    fn draw_allowed(
        &mut self,
        logits: &[f32],
        mut input: SampleInput<'_>,
        allowed: &TokenMask,
    ) -> Option<usize> {
        let is_banned = |token| input.banned.binary_search(&token).is_ok();
        if !input.banned.is_empty() && allowed.tokens_from(0).all(is_banned) {
            input.banned = &[];
        }
        let mut row = std::mem::take(&mut self.masked);
        keep_allowed(logits, allowed, &mut row);
        let drawn = self.draw_adjusted(&mut row, input, None);
        self.masked = row;
        drawn
    }

    /// The index of the drawn token. `peak` is that of the unadjusted logits if they are scanned. The logits are left
    /// as they were.
    fn draw_adjusted(
        &mut self,
        logits: &mut [f32],
        input: SampleInput<'_>,
        peak: Option<Peak>,
    ) -> Option<usize> {
        let is_trusted = self.adjustments.apply(logits, &input);
        let peak = match peak {
            Some(peak) if self.adjustments.is_empty() => Some(peak),
            Some(_) | None => scan(logits, &mut self.maxima),
        };
        let drawn = peak
            .filter(|_| is_trusted)
            .map(|peak| self.draw(logits, &input, peak));
        self.adjustments.undo(logits);
        drawn
    }

    /// How likely `target` is by these `logits`, `[vocabulary]`, and the `top` most likely tokens. Nothing of a request
    /// changes that: it is the model's own word.
    ///
    /// None when a logit is NaN or +infinity, no token is possible, or `target` is none of the vocabulary.
    pub fn score(&mut self, logits: &[f32], target: TokenId, top: u8) -> Option<TokenScore> {
        let index = usize::try_from(target)
            .ok()
            .filter(|index| *index < logits.len())?;
        let peak = scan(logits, &mut self.maxima)?;
        let (rank, kept) = (&mut self.rank, &mut self.kept);
        let distribution = Distribution::read(logits, &self.maxima, peak, usize::from(top), rank, kept);
        Some(TokenScore {
            logprob: distribution.logprob(logits[index]),
            rank: rank_of(logits, &self.maxima, index),
            top: distribution.top,
        })
    }

    /// The index of the drawn token in adjusted and scanned logits.
    fn draw(&mut self, logits: &[f32], input: &SampleInput<'_>, peak: Peak) -> usize {
        let params = input.params;
        // A temperature that is no positive number was refused long before; the safe reading of one is 0.
        if params.temperature.is_nan() || params.temperature <= 0.0 {
            return first_of_largest(logits, peak);
        }
        let weigher = Weigher {
            max: peak.max,
            temperature: params.temperature,
        };
        let random = random_bits(params.seed, input.position);
        if keeps_all(params, logits.len()) {
            return self.draw_from_all(logits, weigher, random);
        }
        let row = Row {
            logits,
            maxima: &self.maxima,
        };
        keep(row, params, weigher, &mut self.filter, &mut self.kept);
        let total = self.kept.iter().map(|ranked| ranked.rank).sum();
        let (place, _) = locate(
            self.kept.iter().map(|ranked| ranked.rank),
            share_of(random, total),
        );
        self.kept[place].token as usize
    }

    fn draw_from_all(&mut self, logits: &[f32], weigher: Weigher, random: u64) -> usize {
        self.block_sums.clear();
        self.block_sums
            .extend(logits.chunks(BLOCK).map(|block| weigher.sum(block)));
        let total = self.block_sums.iter().sum();
        let (block, rest) = locate(self.block_sums.iter().copied(), share_of(random, total));
        let start = block * BLOCK;
        let block = &logits[start..logits.len().min(start + BLOCK)];
        start + locate(block.iter().map(|logit| weigher.weight(*logit)), rest).0
    }
}

/// Writes a copy of `logits` to `row`, with -infinity where the mask has no token.
fn keep_allowed(logits: &[f32], allowed: &TokenMask, row: &mut Vec<f32>) {
    row.clear();
    row.reserve(logits.len());
    for (word, logits) in allowed.words().iter().zip(logits.chunks(u32::BITS as usize)) {
        row.extend((0..).zip(logits).map(|(bit, logit)| {
            if word >> bit & 1_u32 == 1 {
                *logit
            } else {
                f32::NEG_INFINITY
            }
        }));
    }
    // Tokens beyond the mask are not in it.
    row.resize(logits.len(), f32::NEG_INFINITY);
}

/// A number below `total`, as far into it as `random` is into 2^64.
fn share_of(random: u64, total: u64) -> u64 {
    ((u128::from(random) * u128::from(total)) >> 64) as u64
}

/// The index of the weight into which `target` falls when the weights lie end to end, and how far into it.
fn locate(weights: impl Iterator<Item = u64>, mut target: u64) -> (usize, u64) {
    for (index, weight) in weights.enumerate() {
        if target < weight {
            return (index, target);
        }
        target -= weight;
    }
    unreachable!("the target is below the weights' sum, which is above zero")
}

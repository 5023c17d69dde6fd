//! The softmax of attention, one tile of scores after the other.

use vlinders_types::BLOCK_TOKENS;

use crate::math::{Arithmetic, LANES, exp, max_lanes, sum_lanes};

/// Blocks of a tile. More make the softmax cheaper, and short sequences dearer.
pub(crate) const TILE_BLOCKS: usize = 4;
/// Tokens of a tile.
pub(crate) const TILE: usize = TILE_BLOCKS * LANES;
const _: () = assert!(LANES == BLOCK_TOKENS as usize, "a block's scores fill the lanes");
/// [`TILE`], for positions.
pub(crate) const TILE_TOKENS: u32 = 4 * BLOCK_TOKENS;
const _: () = assert!(TILE == TILE_TOKENS as usize, "a tile is four blocks");

/// The online softmax of one query head so far.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    pub(crate) largest: f32,
    pub(crate) sum: f32,
}

/// First position that `position` sees.
pub(crate) fn first_visible(position: u32, window: Option<u32>) -> u32 {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// The tokens of a tile that a position sees: lanes `first..end`.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) first: u32,
    pub(crate) end: u32,
}

impl Seen {
    #[inline(always)]
    pub(crate) fn of(position: u32, window: Option<u32>, tile: u32) -> Self {
        let base = tile * TILE_TOKENS;
        let first = first_visible(position, window).saturating_sub(base);
        let end = (position + 1).saturating_sub(base).min(TILE_TOKENS);
        Self { first, end }
    }

    #[inline(always)]
    pub(crate) fn is_nothing(self) -> bool {
        self.first >= self.end
    }

    #[inline(always)]
    pub(crate) fn is_everything(self) -> bool {
        self.first == 0 && self.end == TILE_TOKENS
    }
}

/// Turns scores into shares relative to the largest score so far, and returns what earlier sums are multiplied with.
#[inline(always)]
pub(crate) fn softmax_step<A: Arithmetic>(
    scores: &mut [f32; TILE],
    running: &mut Running,
    scale: f32,
    seen: Seen,
) -> f32 {
    for score in scores.iter_mut() {
        *score *= scale;
    }
    if !seen.is_everything() {
        for (lane, score) in (0_u32..).zip(scores.iter_mut()) {
            *score = if lane >= seen.first && lane < seen.end {
                *score
            } else {
                f32::NEG_INFINITY
            };
        }
    }
    let tile_largest = max_lanes(fold(scores, |a, b| if a > b { a } else { b }));
    let largest = if tile_largest > running.largest {
        tile_largest
    } else {
        running.largest
    };
    let correction = exp::<A>(running.largest - largest);
    for score in scores.iter_mut() {
        *score = exp::<A>(*score - largest);
    }
    running.largest = largest;
    running.sum = A::mul_add(running.sum, correction, sum_lanes(fold(scores, |a, b| a + b)));
    correction
}

/// The tile's blocks laid over one another.
#[inline(always)]
fn fold(scores: &[f32; TILE], combine: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let [first, second, third, fourth] = scores.as_chunks::<LANES>().0 else {
        unreachable!("a tile is four blocks")
    };
    std::array::from_fn(|lane| {
        combine(
            combine(first[lane], second[lane]),
            combine(third[lane], fourth[lane]),
        )
    })
}

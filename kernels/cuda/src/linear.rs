//! Which kernel multiplies, and how it is started. All of them give the same bits, so the choice is by speed alone.

use vlinders_kernel_api::Dtype;

use crate::coded::Code;

/// Outputs of one tile.
const TILE_OUTPUTS: u32 = 128;
/// Inputs of one stage of a tile.
const STAGE_INPUTS: u32 = 64;
const STAGES: u32 = 4;
/// Bytes of the codes of one stage of a tile.
const CODE_STAGE_BYTES: u32 = 8192;
/// Shared memory of the largest tiles, and the few bytes that their kernel declares itself.
pub(crate) const LARGEST_SHARED_BYTES: u32 = STAGES * 2 * TILE_OUTPUTS * STAGE_INPUTS * 2 + 16;
/// Tokens above which tiles are not split: there are enough of them.
const SPLIT_UP_TO: u32 = 512;
/// Sums of a split product: one for each eighth of the inputs.
const EIGHTHS: u64 = 8;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Finish {
    /// Stored in f32.
    Store,
    /// Added in f32.
    Add,
    /// Gate and up multiplied, in the type of the weights.
    Silu,
}

/// The kernels that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Variant {
    /// Up to so many tokens: the weights stream by once.
    Skinny(u32),
    /// Tiles of so many tokens.
    Tiled(u32),
    /// The one for f32.
    Plain,
}

impl Variant {
    pub(crate) const ALL: [Self; 6] = [
        Self::Skinny(8),
        Self::Skinny(16),
        Self::Tiled(32),
        Self::Tiled(64),
        Self::Tiled(128),
        Self::Plain,
    ];

    /// The end of a kernel's name.
    pub(crate) fn suffix(self) -> String {
        match self {
            Self::Skinny(tokens) => format!("_m{tokens}"),
            Self::Tiled(tokens) => format!("_t{tokens}"),
            Self::Plain => String::new(),
        }
    }
}

/// How a product is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearLaunch {
    pub(crate) variant: Variant,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    /// Pieces that the inputs are cut into.
    pub(crate) splits: u32,
}

impl LinearLaunch {
    /// For `tokens` rows and `outputs` columns on a device of so many multiprocessors.
    pub(crate) fn of(dtype: Dtype, tokens: u32, outputs: u32, multiprocessors: u32) -> Self {
        let launch = |variant, grid| Self {
            variant,
            grid,
            threads: 256,
            shared_bytes: 0,
            splits: 1,
        };
        if dtype == Dtype::F32 {
            return launch(Variant::Plain, [tokens.div_ceil(32), outputs.div_ceil(64), 1]);
        }
        match tokens {
            0..=8 => launch(Variant::Skinny(8), [outputs.div_ceil(16), 1, 1]),
            9..=16 => launch(Variant::Skinny(16), [outputs.div_ceil(32), 1, 1]),
            _ => {
                let tile = match tokens {
                    0..=32 => 32,
                    33..=64 => 64,
                    _ => 128,
                };
                let (across, down) = (tokens.div_ceil(tile), outputs.div_ceil(TILE_OUTPUTS));
                let splits = match tokens {
                    0..=SPLIT_UP_TO => splits_for(u64::from(across) * u64::from(down), multiprocessors),
                    _ => 1,
                };
                Self {
                    shared_bytes: STAGES * (TILE_OUTPUTS + tile) * STAGE_INPUTS * 2,
                    splits,
                    ..launch(Variant::Tiled(tile), [across, down, splits])
                }
            }
        }
    }
}

impl LinearLaunch {
    /// The same for weights that are codes.
    pub(crate) fn of_codes(code: Code, tokens: u32, outputs: u32, multiprocessors: u32) -> Self {
        let launch = |variant, grid| Self {
            variant,
            grid,
            threads: 256,
            shared_bytes: 0,
            splits: 1,
        };
        let tile = match tokens {
            0..=8 => return launch(Variant::Skinny(8), [outputs.div_ceil(16), 1, 1]),
            9..=16 => return launch(Variant::Skinny(16), [outputs.div_ceil(16), 1, 1]),
            17..=32 => 32,
            _ => 64,
        };
        let (across, down) = (tokens.div_ceil(tile), outputs.div_ceil(TILE_OUTPUTS));
        let splits = match tokens {
            0..=SPLIT_UP_TO => splits_for(u64::from(across) * u64::from(down), multiprocessors),
            _ => 1,
        };
        Self {
            shared_bytes: STAGES * (CODE_STAGE_BYTES + tile * code.stage_inputs() * 2),
            splits,
            ..launch(Variant::Tiled(tile), [across, down, splits])
        }
    }

    /// Whether the kernel asks for a workspace, counters and splits after its other arguments.
    pub(crate) fn takes_workspace(&self) -> bool {
        matches!(self.variant, Variant::Tiled(_))
    }
}

/// As few pieces as give every multiprocessor work.
fn splits_for(tiles: u64, multiprocessors: u32) -> u32 {
    let enough = |splits: &u32| tiles * u64::from(*splits) >= u64::from(multiprocessors);
    [1, 2, 4].into_iter().find(enough).unwrap_or(8)
}

/// Bytes of sums that split products keep at most, and how many tiles count their pieces: products are only split
/// while there are fewer tiles than multiprocessors.
pub(crate) fn workspace(multiprocessors: u32, tokens: u32) -> (u64, u32) {
    let tile = match tokens {
        0..=16 => return (0, 0),
        17..=32 => 32,
        33..=64 => 64,
        _ => 128,
    };
    let tiles = multiprocessors.saturating_sub(1);
    let bytes = u64::from(tiles) * EIGHTHS * u64::from(TILE_OUTPUTS * tile) * 4;
    (bytes, tiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_change_with_the_number_of_tokens() {
        let of = |tokens| LinearLaunch::of(Dtype::Bf16, tokens, 4096, 132);
        assert_eq!((of(1).variant, of(1).grid), (Variant::Skinny(8), [256, 1, 1]));
        assert_eq!((of(9).variant, of(16).grid), (Variant::Skinny(16), [128, 1, 1]));
        assert_eq!((of(17).variant, of(17).grid), (Variant::Tiled(32), [1, 32, 8]));
        assert_eq!(
            (of(33).variant, of(33).shared_bytes),
            (Variant::Tiled(64), 96 << 10)
        );
        assert_eq!((of(65).variant, of(512).grid), (Variant::Tiled(128), [4, 32, 2]));
        assert_eq!((of(513).grid, of(513).shared_bytes), ([5, 32, 1], 128 << 10));
        let plain = LinearLaunch::of(Dtype::F32, 33, 65, 132);
        assert_eq!((plain.variant, plain.grid), (Variant::Plain, [2, 2, 1]));
    }

    #[test]
    fn codes_have_tiles_of_their_own() {
        let of = |code, tokens| LinearLaunch::of_codes(code, tokens, 4096, 132);
        assert_eq!(of(Code::Int4, 16).grid, [256, 1, 1]);
        let tiled = of(Code::Int4, 100);
        assert_eq!((tiled.variant, tiled.grid), (Variant::Tiled(64), [2, 32, 4]));
        assert_eq!(tiled.shared_bytes, 4 * (8192 + 64 * 128 * 2));
        assert_eq!(of(Code::Fp8, 20).shared_bytes, 4 * (8192 + 32 * 64 * 2));
    }

    #[test]
    fn split_products_fit_their_workspace() {
        for multiprocessors in [1, 4, 78, 108, 132, 160] {
            for most in [16, 17, 40, 512, 4096] {
                let (bytes, counters) = workspace(multiprocessors, most);
                for tokens in 1..=most.min(600) {
                    for outputs in [64, 1000, 4096, 128_256] {
                        let launch = LinearLaunch::of(Dtype::F16, tokens, outputs, multiprocessors);
                        let Variant::Tiled(tile) = launch.variant else {
                            continue;
                        };
                        if launch.splits > 1 {
                            let tiles = launch.grid[0] * launch.grid[1];
                            let needed = u64::from(tiles) * EIGHTHS * u64::from(TILE_OUTPUTS * tile) * 4;
                            assert!(needed <= bytes && tiles <= counters, "{tokens} {outputs}");
                        }
                    }
                }
            }
        }
    }
}

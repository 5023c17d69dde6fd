//! One pass over a row of logits: the largest of each block of 64, and whether the row can be trusted. Everything
//! later looks only into the blocks that matter.

/// Logits in a block. 128k logits make 2000 blocks: few to select from, cheap to look into.
pub(crate) const BLOCK: usize = 64;
/// Independent running maxima, enough to fill the vector registers.
const LANES: usize = 16;

/// What one pass found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Peak {
    /// The largest logit; finite.
    pub(crate) max: f32,
    /// The first block that holds it.
    pub(crate) block: usize,
}

/// Writes each block's largest logit to `maxima`. None when any logit is NaN or +infinity, or all are -infinity.
pub(crate) fn scan(logits: &[f32], maxima: &mut Vec<f32>) -> Option<Peak> {
    maxima.clear();
    let mut peak = Peak {
        max: f32::NEG_INFINITY,
        block: 0,
    };
    let mut is_trusted = true;
    for (index, block) in logits.chunks(BLOCK).enumerate() {
        let (max, block_is_trusted) = scan_block(block);
        is_trusted &= block_is_trusted;
        maxima.push(max);
        if max > peak.max {
            peak = Peak { max, block: index };
        }
    }
    (is_trusted && peak.max > f32::NEG_INFINITY).then_some(peak)
}

/// The lowest index that holds the largest logit.
pub(crate) fn first_of_largest(logits: &[f32], peak: Peak) -> usize {
    let start = peak.block * BLOCK;
    let block = &logits[start..logits.len().min(start + BLOCK)];
    let inside = block.iter().position(|logit| *logit == peak.max);
    start + inside.expect("the scan found the largest logit in this block")
}

fn scan_block(block: &[f32]) -> (f32, bool) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let mut faults = [0_u32; LANES];
    let mut runs = block.chunks_exact(LANES);
    for run in &mut runs {
        for lane in 0..LANES {
            step(run[lane], &mut maxima[lane], &mut faults[lane]);
        }
    }
    for (lane, logit) in runs.remainder().iter().enumerate() {
        step(*logit, &mut maxima[lane], &mut faults[lane]);
    }
    let largest = maxima.iter().fold(
        f32::NEG_INFINITY,
        |left, right| if *right > left { *right } else { left },
    );
    (largest, faults.iter().all(|fault| *fault == 0))
}

#[inline]
fn step(logit: f32, max: &mut f32, fault: &mut u32) {
    *max = if logit > *max { logit } else { *max };
    // True for finite numbers and -infinity; a comparison with NaN is false.
    *fault |= u32::from(!is_usable(logit));
}

/// Neither NaN nor +infinity.
#[inline]
pub(crate) fn is_usable(logit: f32) -> bool {
    logit < f32::INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_is_found_at_its_lowest_index(logits in prop::collection::vec(-4_i8..4, 1..300)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut maxima = Vec::new();
            let peak = scan(&logits, &mut maxima).unwrap();
            let found = first_of_largest(&logits, peak);
            let largest = logits.iter().copied().fold(f32::MIN, f32::max);
            prop_assert_eq!(Some(found), logits.iter().position(|logit| *logit == largest));
            prop_assert_eq!(maxima.len(), logits.len().div_ceil(BLOCK));
        }

        #[test]
        fn one_bad_number_spoils_the_row(length in 1_usize..300, at in any::<prop::sample::Index>(), kind in 0..2) {
            let mut logits = vec![0.5_f32; length];
            logits[at.index(length)] = if kind == 0 { f32::NAN } else { f32::INFINITY };
            prop_assert_eq!(scan(&logits, &mut Vec::new()), None);
        }
    }

    #[test]
    fn a_row_without_any_possible_token_is_refused() {
        assert_eq!(scan(&[f32::NEG_INFINITY; 70], &mut Vec::new()), None);
        assert_eq!(scan(&[], &mut Vec::new()), None);
    }
}

//! One function per operation, as a textbook writes it.

use half::bf16;

/// `value` rounded to bf16, nearest even.
#[must_use]
pub fn round_bf16(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// `value` as an f32, nearest even.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "rounding is the point")]
pub fn narrow(value: f64) -> f32 {
    value as f32
}

/// Sum of products.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn dot(left: &[f32], right: &[f32]) -> f64 {
    assert_eq!(
        left.len(),
        right.len(),
        "both sides of a dot product have the same length"
    );
    left.iter()
        .zip(right)
        .map(|(left, right)| f64::from(*left) * f64::from(*right))
        .sum()
}

/// `weight · x + bias` with `weight` `[outputs, inputs]`.
///
/// # Panics
/// When `weight` is not `outputs` rows of `x.len()`.
#[must_use]
pub fn matvec(weight: &[f32], bias: Option<&[f32]>, x: &[f32], outputs: usize) -> Vec<f32> {
    assert_eq!(
        weight.len(),
        outputs * x.len(),
        "the matrix has one row per output"
    );
    let rows = weight.chunks_exact(x.len().max(1)).enumerate();
    rows.map(|(output, row)| narrow(dot(row, x) + bias.map_or(0.0, |bias| f64::from(bias[output]))))
        .collect()
}

/// `x / sqrt(mean(x^2) + epsilon) * weight`.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    assert_eq!(x.len(), weight.len(), "a norm has one weight per element");
    let mean = dot(x, x) / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
    x.iter()
        .zip(weight)
        .map(|(x, weight)| narrow(f64::from(*x) * scale * f64::from(*weight)))
        .collect()
}

/// Cosine and sine of `position * frequency`. The angle is rounded to f32 first, since that is how models are trained.
#[must_use]
pub fn rotation(position: u32, frequency: f32) -> (f64, f64) {
    let angle = f64::from(position as f32 * frequency);
    (angle.cos(), angle.sin())
}

/// Rotates element `i` of `head` with element `i + head.len() / 2`, for each frequency `i`.
///
/// # Panics
/// When there is not one frequency for each pair.
pub fn rotate(head: &mut [f32], frequencies: &[f32], position: u32) {
    assert_eq!(
        head.len(),
        2 * frequencies.len(),
        "one frequency turns two elements"
    );
    let (low, high) = head.split_at_mut(frequencies.len());
    for ((low, high), frequency) in low.iter_mut().zip(high).zip(frequencies) {
        let (cosine, sine) = rotation(position, *frequency);
        let (first, second) = (f64::from(*low), f64::from(*high));
        *low = narrow(first * cosine - second * sine);
        *high = narrow(second * cosine + first * sine);
    }
}

/// Exponentials of `scores` over their sum.
#[must_use]
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}

/// Attention of one query head over one key/value head: `keys` and `values` are `[tokens, head_dim]`.
///
/// # Panics
/// When `keys` and `values` are not of the same shape with rows as long as `query`.
#[must_use]
pub fn attention(query: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f32> {
    assert_eq!(keys.len(), values.len(), "each key has a value");
    let head_dim = query.len();
    let scores: Vec<f64> = keys
        .chunks_exact(head_dim)
        .map(|key| dot(query, key) * f64::from(scale))
        .collect();
    let shares = softmax(&scores);
    let mut context = vec![0.0_f64; head_dim];
    for (share, value) in shares.iter().zip(values.chunks_exact(head_dim)) {
        for (sum, value) in context.iter_mut().zip(value) {
            *sum += share * f64::from(*value);
        }
    }
    context.into_iter().map(narrow).collect()
}

/// Index of the first position that `position` sees, itself the last.
#[must_use]
pub fn first_visible(position: u32, window: Option<u32>) -> u32 {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// `x / (1 + exp(-x))`.
#[must_use]
pub fn silu(x: f32) -> f64 {
    let x = f64::from(x);
    x / (1.0 + (-x).exp())
}

/// How far `found` is from `expected`: the length of the difference over the length of `expected`.
/// Not a number when either holds one.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "vectors of one length are compared");
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    let length: f64 = expected.iter().map(|value| f64::from(*value).powi(2)).sum();
    if difference == 0.0 {
        0.0
    } else {
        (difference / length).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_average_the_values() {
        let context = attention(&[0.0, 0.0], &[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 6.0], 1.0);
        assert_eq!(context, [2.0, 4.0]);
    }

    #[test]
    fn a_rotation_keeps_lengths_and_position_zero() {
        let mut head = [3.0, 1.0, 4.0, 2.0];
        rotate(&mut head, &[1.0, 0.01], 0);
        assert_eq!(head, [3.0, 1.0, 4.0, 2.0]);
        rotate(&mut head, &[1.0, 0.01], 7);
        assert!((dot(&head, &head) - 30.0).abs() < 1e-5);
        assert!((f64::from(head[0]) - (3.0 * 7.0_f64.cos() - 4.0 * 7.0_f64.sin())).abs() < 1e-6);
    }

    #[test]
    fn a_norm_makes_the_mean_square_one() {
        let normed = rms_norm(&[2.0, -2.0, 2.0, -2.0], &[1.0, 1.0, 2.0, 1.0], 0.0);
        assert_eq!(normed, [1.0, -1.0, 2.0, -1.0]);
    }

    #[test]
    fn a_window_of_one_sees_only_itself() {
        assert_eq!(
            (
                first_visible(5, None),
                first_visible(5, Some(1)),
                first_visible(5, Some(9))
            ),
            (0, 5, 0)
        );
    }

    #[test]
    fn a_matrix_times_a_vector_adds_the_bias() {
        assert_eq!(
            matvec(&[1.0, 2.0, 3.0, 4.0], Some(&[10.0, 20.0]), &[1.0, 1.0], 2),
            [13.0, 27.0]
        );
    }
}

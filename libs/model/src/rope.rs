//! Rotary position embedding: which frequencies a config asks for.

use std::f64::consts::TAU;

use serde_json::Map;

use crate::ModelError;
use crate::fields::Fields;

const DEFAULT_THETA: f64 = 10_000.0;
const SUPPORTED: &str = "default, linear, llama3";
/// Generous bounds: published values are 1e4 to 1e8 for theta and 1 to 64 for factors.
const THETAS: std::ops::RangeInclusive<f64> = 1.0..=1e12;
const FACTORS: std::ops::RangeInclusive<f64> = 1.0..=65_536.0;

/// Rotary position embedding of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched beyond the length a model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Low frequencies divided by the factor, high ones kept, those between interpolated.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths above `original_positions / low_frequency_factor` are scaled.
        low_frequency_factor: f64,
        /// Wavelengths below `original_positions / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// Context length before the stretch.
        original_positions: f64,
    },
}

impl Rope {
    /// Reads `rope_parameters` (newer files) or `rope_theta` and `rope_scaling` (older ones).
    pub(crate) fn read(file: &str, fields: &Fields<'_>) -> Result<Self, ModelError> {
        let older_theta = fields.real("rope_theta", THETAS)?;
        refuse_partial_rotation(fields)?;
        let (prefix, map) = match fields.object("rope_parameters")? {
            Some(map) => ("rope_parameters.", Some(map)),
            None => ("rope_scaling.", fields.object("rope_scaling")?),
        };
        let empty = Map::new();
        let inner = Fields::new(file, prefix, map.unwrap_or(&empty));
        refuse_partial_rotation(&inner)?;
        let theta = inner
            .real("rope_theta", THETAS)?
            .or(older_theta)
            .unwrap_or(DEFAULT_THETA);
        Ok(Self {
            theta,
            scaling: RopeScaling::read(&inner)?,
        })
    }

    /// Radians per position for each rotated pair, `[head_dim / 2]`.
    #[must_use]
    pub fn frequencies(&self, head_dim: u32) -> Vec<f32> {
        let pairs = head_dim / 2;
        let scaled = (0..pairs).map(|pair| {
            let exponent = f64::from(2 * pair) / f64::from(head_dim);
            self.scaling.apply(self.theta.powf(-exponent))
        });
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounding to f32 is the format of the result"
        )]
        scaled.map(|frequency| frequency as f32).collect()
    }
}

impl RopeScaling {
    fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let kind = match fields.text("rope_type")? {
            Some(kind) => kind,
            None => fields.text("type")?.unwrap_or("default"),
        };
        let required = |field: &str, range| fields.required(field, fields.real(field, range)?);
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear {
                factor: required("factor", FACTORS)?,
            }),
            "llama3" => {
                let low_frequency_factor = required("low_freq_factor", 1e-3..=1e6)?;
                let high_frequency_factor = required("high_freq_factor", 1e-3..=1e6)?;
                if high_frequency_factor <= low_frequency_factor {
                    let problem = format!(
                        "is {high_frequency_factor}, must be above low_freq_factor {low_frequency_factor}"
                    );
                    return Err(fields.wrong("high_freq_factor", problem));
                }
                Ok(Self::Llama3 {
                    factor: required("factor", FACTORS)?,
                    low_frequency_factor,
                    high_frequency_factor,
                    original_positions: required("original_max_position_embeddings", 1.0..=1e9)?,
                })
            }
            other => Err(fields.unsupported(format!("rope scaling `{other}`"), SUPPORTED)),
        }
    }

    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                original_positions,
            } => {
                let turns = original_positions * frequency / TAU;
                // 0 where the frequency is scaled in full, 1 where it is kept.
                let kept = (turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

fn refuse_partial_rotation(fields: &Fields<'_>) -> Result<(), ModelError> {
    match fields.real("partial_rotary_factor", 0.0..=1.0)? {
        Some(share) if share < 1.0 => {
            Err(fields.unsupported(format!("partial_rotary_factor {share}"), "1.0"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out from the published rule for Llama 3.1 with theta 500000 and head dim 128.
    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_positions: 8192.0,
        };
        let plain = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::None,
        }
        .frequencies(128);
        let scaled = Rope {
            theta: 500_000.0,
            scaling,
        }
        .frequencies(128);
        for (plain, scaled) in plain.iter().zip(&scaled) {
            let wavelength = TAU / f64::from(*plain);
            let ratio = scaled / plain;
            if wavelength < 8192.0 / 4.0 {
                assert_eq!(plain, scaled);
            } else if wavelength > 8192.0 {
                assert!((ratio - 0.125).abs() < 1e-6);
            } else {
                assert!((0.125..1.0).contains(&ratio));
            }
        }
        assert_eq!(plain[0], 1.0);
    }

    #[test]
    fn linear_scaling_divides_all() {
        let rope = |scaling| {
            Rope {
                theta: 10_000.0,
                scaling,
            }
            .frequencies(8)
        };
        let (plain, halved) = (rope(RopeScaling::None), rope(RopeScaling::Linear { factor: 2.0 }));
        assert_eq!(plain, [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(halved, [0.5, 0.05, 0.005, 0.0005]);
    }
}

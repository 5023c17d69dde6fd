//! How many tokens prompts and answers have: a fixed number, or drawn.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// Longer than any model's context.
const MOST_TOKENS: u32 = 10_000_000;

/// A distribution of lengths in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    /// Always the same.
    Fixed(u32),
    /// Every length from the first to the second is as likely.
    Uniform(u32, u32),
    /// Many short ones and a long tail, as people write.
    LogNormal {
        /// Half are shorter.
        median: u32,
        /// Deviation of the natural logarithm: at 1.0 one in six is longer than 2.7 medians.
        sigma: f64,
    },
}

impl Lengths {
    /// The next length, at least 1.
    pub fn draw(&self, random: &mut Random) -> u32 {
        match *self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform(least, most) => random.between(least, most),
            Self::LogNormal { median, sigma } => whole(f64::from(median) * (sigma * random.normal()).exp()),
        }
    }

    /// The mean length.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Fixed(tokens) => f64::from(tokens),
            Self::Uniform(least, most) => f64::midpoint(f64::from(least), f64::from(most)),
            Self::LogNormal { median, sigma } => f64::from(median) * (sigma * sigma / 2.0).exp(),
        }
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "give a number of tokens, uniform:LEAST-MOST or lognormal:MEDIAN,SIGMA";
        let tokens = |text: &str| match text.trim().parse::<u32>() {
            Ok(tokens) if (1..=MOST_TOKENS).contains(&tokens) => Ok(tokens),
            Ok(_) => Err(format!("{text} is not from 1 to {MOST_TOKENS}")),
            Err(_) => Err(format!("{text:?} is no number of tokens; {form}")),
        };
        if let Some(range) = text.strip_prefix("uniform:") {
            let (least, most) = range.split_once('-').ok_or(form)?;
            let (least, most) = (tokens(least)?, tokens(most)?);
            if least > most {
                return Err(format!("{least} is more than {most}"));
            }
            return Ok(Self::Uniform(least, most));
        }
        if let Some(shape) = text.strip_prefix("lognormal:") {
            let (median, sigma) = shape.split_once(',').ok_or(form)?;
            let sigma = match sigma.trim().parse::<f64>() {
                Ok(sigma) if (0.0..=4.0).contains(&sigma) => sigma,
                Ok(_) | Err(_) => return Err(format!("SIGMA {sigma:?} is not a number from 0 to 4")),
            };
            return Ok(Self::LogNormal {
                median: tokens(median)?,
                sigma,
            });
        }
        tokens(text).map(Self::Fixed)
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(tokens) => write!(out, "{tokens}"),
            Self::Uniform(least, most) => write!(out, "uniform:{least}-{most}"),
            Self::LogNormal { median, sigma } => write!(out, "lognormal:{median},{sigma}"),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of lengths first"
)]
pub(crate) fn whole(tokens: f64) -> u32 {
    tokens.round().clamp(1.0, f64::from(MOST_TOKENS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    #[test]
    fn every_form_is_read_and_written_alike() {
        for text in ["128", "uniform:1-9", "lognormal:256,0.5"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_forms_are_told() {
        for (text, told) in [
            ("0", "not from 1"),
            ("many", "no number of tokens"),
            ("uniform:9", "uniform:LEAST-MOST"),
            ("uniform:9-3", "9 is more than 3"),
            ("lognormal:9", "lognormal:MEDIAN,SIGMA"),
            ("lognormal:9,x", "not a number"),
            ("lognormal:9,-1", "from 0 to 4"),
        ] {
            let error = text.parse::<Lengths>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn drawn_lengths_have_the_mean_they_promise() {
        let mut random = Random::new(3, Purpose::PromptLengths);
        for text in ["70", "uniform:10-50", "lognormal:100,0.7"] {
            let lengths: Lengths = text.parse().unwrap();
            let sum: f64 = (0..50_000).map(|_| f64::from(lengths.draw(&mut random))).sum();
            let ratio = sum / 50_000.0 / lengths.mean();
            assert!((0.98..1.02).contains(&ratio), "{text}: {ratio}");
        }
    }
}

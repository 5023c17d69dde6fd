//! Objectives a request has to meet to count as good.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::span;

/// What a request's times are held against. At least one is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// The longest gap between two chunks.
    pub itl: Option<Duration>,
    /// The mean time per token after the first.
    pub tpot: Option<Duration>,
    /// Time to the end of the answer.
    pub e2e: Option<Duration>,
}

/// What a request's times were. A time that was not measured is none: a whole answer has no first token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// See [`Objectives::ttft`].
    pub ttft: Option<Duration>,
    /// See [`Objectives::itl`]; none for an answer of one chunk.
    pub longest_gap: Option<Duration>,
    /// See [`Objectives::tpot`]; none for an answer of one token.
    pub tpot: Option<Duration>,
    /// See [`Objectives::e2e`].
    pub e2e: Duration,
}

impl Objectives {
    /// Whether all are met. What was not measured cannot be missed.
    #[must_use]
    pub fn are_met_by(&self, times: &Times) -> bool {
        let meets = |limit: Option<Duration>, time: Option<Duration>| match (limit, time) {
            (Some(limit), Some(time)) => time <= limit,
            (None, _) | (_, None) => true,
        };
        meets(self.ttft, times.ttft)
            && meets(self.itl, times.longest_gap)
            && meets(self.tpot, times.tpot)
            && meets(self.e2e, Some(times.e2e))
    }

    /// Whether one needs the times of single chunks, which only a stream has.
    #[must_use]
    pub const fn need_a_stream(&self) -> bool {
        self.ttft.is_some() || self.itl.is_some() || self.tpot.is_some()
    }

    fn named(&self) -> [(&'static str, Option<Duration>); 4] {
        [
            ("ttft", self.ttft),
            ("itl", self.itl),
            ("tpot", self.tpot),
            ("e2e", self.e2e),
        ]
    }
}

impl FromStr for Objectives {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut objectives = Self::default();
        for part in text.split(',') {
            let (name, limit) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} has no limit; write ttft=500ms,itl=50ms,e2e=10s"))?;
            let place = match name.trim() {
                "ttft" => &mut objectives.ttft,
                "itl" => &mut objectives.itl,
                "tpot" => &mut objectives.tpot,
                "e2e" => &mut objectives.e2e,
                other => {
                    return Err(format!(
                        "{other:?} is no objective; there are ttft, itl, tpot and e2e"
                    ));
                }
            };
            if place.replace(span::parse(limit.trim())?).is_some() {
                return Err(format!("{} is given twice", name.trim()));
            }
        }
        Ok(objectives)
    }
}

impl fmt::Display for Objectives {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.named().into_iter();
        let given = given.filter_map(|(name, limit)| Some(format!("{name}={}", span::show(limit?))));
        out.write_str(&given.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ttft: u64, gap: u64, tpot: u64, e2e: u64) -> Times {
        Times {
            ttft: Some(Duration::from_millis(ttft)),
            longest_gap: Some(Duration::from_millis(gap)),
            tpot: Some(Duration::from_millis(tpot)),
            e2e: Duration::from_millis(e2e),
        }
    }

    #[test]
    fn every_objective_must_be_met_and_a_limit_is_met_by_itself() {
        let objectives: Objectives = "ttft=500ms,itl=50ms,tpot=20ms,e2e=10s".parse().unwrap();
        assert!(objectives.are_met_by(&times(500, 50, 20, 10_000)));
        for missed in [
            times(501, 50, 20, 10_000),
            times(500, 51, 20, 10_000),
            times(500, 50, 21, 10_000),
            times(500, 50, 20, 10_001),
        ] {
            assert!(!objectives.are_met_by(&missed), "{missed:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_missed() {
        let objectives: Objectives = "ttft=1ms,itl=1ms,tpot=1ms".parse().unwrap();
        let whole = Times {
            e2e: Duration::from_secs(9),
            ..Times::default()
        };
        assert!(objectives.are_met_by(&whole));
        assert!(objectives.need_a_stream());
        assert!(!"e2e=1s".parse::<Objectives>().unwrap().need_a_stream());
    }

    #[test]
    fn objectives_are_read_and_written_alike() {
        for text in ["ttft=500ms,itl=50ms,e2e=10s", "tpot=2.5ms"] {
            assert_eq!(text.parse::<Objectives>().unwrap().to_string(), text);
        }
        for wrong in ["", "ttft", "ttft=", "ttft=fast", "tfft=1s", "ttft=1s,ttft=2s"] {
            assert!(wrong.parse::<Objectives>().is_err(), "{wrong}");
        }
    }
}

//! `/metrics`, read back.

use anyhow::{Context, ensure};

/// Every sample of one scrape.
#[derive(Clone, Debug)]
pub struct Samples(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    /// As written between the braces.
    labels: String,
    value: f64,
}

impl Samples {
    /// Reads the text form.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (series, value) = line
                .rsplit_once(' ')
                .with_context(|| format!("no sample: {line}"))?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Ok(Sample {
                name: name.to_owned(),
                labels: labels.trim_end_matches('}').to_owned(),
                value: value.parse().with_context(|| format!("no number: {line}"))?,
            })
        });
        let samples: anyhow::Result<Vec<Sample>> = samples.collect();
        let samples = samples?;
        ensure!(!samples.is_empty(), "there are no metrics");
        Ok(Self(samples))
    }

    /// The samples of this name, one for each role or whatever its labels tell apart.
    ///
    /// # Errors
    /// When there is none: a name that is gone must not pass for a 0.
    pub fn each(&self, name: &str) -> anyhow::Result<Vec<f64>> {
        let values: Vec<f64> = self
            .0
            .iter()
            .filter(|sample| sample.name == name)
            .map(|sample| sample.value)
            .collect();
        ensure!(!values.is_empty(), "there is no metric {name}");
        Ok(values)
    }

    /// Their sum.
    ///
    /// # Errors
    /// When there is none.
    pub fn sum(&self, name: &str) -> anyhow::Result<f64> {
        Ok(self.each(name)?.iter().sum())
    }

    /// The sum of those whose labels hold this, such as `role="decode"`; 0 when there is none.
    #[must_use]
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        let found = self.0.iter().filter(|sample| sample.name == name);
        found
            .filter(|sample| sample.labels.split(',').any(|known| known == label))
            .map(|sample| sample.value)
            .sum()
    }

    /// Nothing runs, nothing waits, and every block is free or only cached.
    ///
    /// # Errors
    /// What is still held.
    pub fn settled(&self) -> anyhow::Result<()> {
        self.blocks_free()?;
        self.is_zero("vlinders_sequences_running")?;
        self.is_zero("vlinders_requests_in_flight")
    }

    /// Every block is free or only cached.
    ///
    /// # Errors
    /// When there are others.
    pub fn blocks_free(&self) -> anyhow::Result<()> {
        let (free, all) = (
            self.each("vlinders_kv_blocks_free")?,
            self.each("vlinders_kv_blocks")?,
        );
        ensure!(free == all, "blocks free {free:?} of {all:?}");
        Ok(())
    }

    /// There is such a metric, and it is 0.
    ///
    /// # Errors
    /// When it is not.
    pub fn is_zero(&self, name: &str) -> anyhow::Result<()> {
        let left = self.sum(name)?;
        ensure!(left == 0.0, "{name} is {left}");
        Ok(())
    }
}

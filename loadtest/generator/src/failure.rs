//! Failures as one line that says what to do.

/// The whole chain of causes on one line, none twice.
#[must_use]
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

/// What clap says about a wrong argument: its first paragraph and its tip, joined.
#[must_use]
pub fn usage_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let told = text.lines().map(str::trim).filter(|line| {
        !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more information")
    });
    let joined = told.collect::<Vec<_>>().join("; ");
    let line = joined.strip_prefix("error: ").unwrap_or(&joined);
    format!("{line} (try --help)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_none_twice() {
        let cause = anyhow::anyhow!("no such\nfile");
        let error = cause.context("cannot read x").context("cannot read x");
        assert_eq!(one_line(&error), "cannot read x: no such file");
    }
}

//! Failures as one line that says what to do, and an exit code.

use std::process::ExitCode;

/// Prints the whole chain of causes on one line.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("vlinders: {}", one_line(error));
    ExitCode::FAILURE
}

/// Prints help and version as clap lays them out, and a wrong argument as one line.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        print!("{error}");
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    // Without a subcommand clap prints the whole help: that is what a newcomer wants to see.
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{text}");
        return ExitCode::from(2);
    }
    eprintln!("vlinders: {}", usage_line(&text));
    ExitCode::from(2)
}

/// The first paragraph of clap's text and its tip, joined.
fn usage_line(text: &str) -> String {
    let told = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("Usage:"));
    let told = told.filter(|line| !line.starts_with("For more information"));
    let joined: Vec<&str> = told.collect();
    let joined = joined.join("; ");
    let line = joined.strip_prefix("error: ").unwrap_or(&joined);
    format!("{line} (try --help)")
}

/// Causes joined by colons, without line breaks and without repeating what a cause already said.
fn one_line(error: &anyhow::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_on_one_line_and_none_twice() {
        let cause = anyhow::anyhow!("no such\nfile");
        let error = cause
            .context("cannot read config.json")
            .context("cannot read config.json");
        assert_eq!(one_line(&error), "cannot read config.json: no such file");
    }

    #[test]
    fn a_wrong_argument_is_one_line_with_its_tip() {
        let text = "error: unexpected argument '--modle' found\n\n  tip: a similar argument exists: '--model'\n\nUsage: x\n\nFor more information, try '--help'.\n";
        let line = usage_line(text);
        assert_eq!(
            line,
            "unexpected argument '--modle' found; tip: a similar argument exists: '--model' (try --help)"
        );
    }
}

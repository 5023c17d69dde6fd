//! What is kept for tenants, and how long.

use std::time::Duration;

use clap::Args;
use vlinders_frontend::{BatchRules, KeptRules, ResponseKeeping};
use vlinders_service_kit::{Checks, Given, SettingValue};

/// Ten years.
const DAYS: u64 = 3_650;
const MIB: u64 = 1 << 20;
/// A file is no place for a data set.
const FILE_MIB: u64 = 10 * 1024;
/// 64 TiB.
const TENANT_MIB: u64 = 64 * MIB;
const BATCHES: usize = 1_000;
const LINES: usize = 1_000;

/// Flags of processes that keep things for tenants.
#[derive(Args, Clone, Debug)]
pub(crate) struct KeptArgs {
    /// Days that responses, files and batches are kept unless their owners say otherwise
    #[arg(long, env = "RETENTION_DAYS", value_name = "DAYS", default_value = "30")]
    retention_days: Given<u64>,
    /// Answers of /v1/responses that are kept: `always` unless a request says `store: false`, when it is `asked` for, or
    /// `never`
    #[arg(long, env = "KEEP_RESPONSES", value_name = "WHEN", default_value = "always")]
    keep_responses: Given<Keeping>,
    /// MiB of one uploaded file at most
    #[arg(long, env = "FILE_MAX_MIB", value_name = "MIB", default_value = "100")]
    file_max_mib: Given<u64>,
    /// MiB of all uploaded files of a tenant at most
    #[arg(long, env = "TENANT_FILES_MIB", value_name = "MIB", default_value = "2048")]
    tenant_files_mib: Given<u64>,
    /// Batches that this process runs at one time; 0 leaves them to others
    #[arg(long, env = "BATCHES_AT_ONCE", value_name = "N", default_value = "4")]
    batches_at_once: Given<usize>,
    /// Lines of one batch that are answered at one time
    #[arg(long, env = "BATCH_LINES_AT_ONCE", value_name = "N", default_value = "8")]
    batch_lines_at_once: Given<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keeping(ResponseKeeping);

impl SettingValue for Keeping {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self(ResponseKeeping::UnlessRefused)),
            "asked" => Ok(Self(ResponseKeeping::WhenAsked)),
            "never" => Ok(Self(ResponseKeeping::Never)),
            _ => Err("is none of `always`, `asked` and `never`".to_owned()),
        }
    }
}

impl KeptArgs {
    /// Reads all settings.
    pub(crate) fn read(&self, checks: &mut Checks) -> KeptRules {
        let days = checks.number("retention_days", &self.retention_days, 1..=DAYS);
        let keeping = checks.value("keep_responses", &self.keep_responses);
        let mib = MIB * checks.number("file_max_mib", &self.file_max_mib, 1..=FILE_MIB);
        let tenant = MIB * checks.number("tenant_files_mib", &self.tenant_files_mib, 1..=TENANT_MIB);
        KeptRules {
            retention: Duration::from_secs(days * 24 * 3600),
            responses: keeping.map_or_else(ResponseKeeping::default, |Keeping(keeping)| keeping),
            file_bytes: mib,
            tenant_bytes: tenant,
            batches: BatchRules {
                at_once: checks.number("batches_at_once", &self.batches_at_once, 0..=BATCHES),
                lines_at_once: checks.number("batch_lines_at_once", &self.batch_lines_at_once, 1..=LINES),
                ..BatchRules::default()
            },
            ..KeptRules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: KeptArgs,
    }

    fn read(words: &[&str]) -> Result<KeptRules, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(words)).unwrap();
        let mut checks = Checks::default();
        let rules = line.args.read(&mut checks);
        checks.finish().map_err(|faults| faults.to_string())?;
        Ok(rules)
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        assert_eq!(read(&[]), Ok(KeptRules::default()));
        let rules = read(&["--keep-responses", "asked", "--file-max-mib", "1"]).unwrap();
        assert_eq!(
            (rules.responses, rules.file_bytes),
            (ResponseKeeping::WhenAsked, 1 << 20)
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for words in [
            ["--retention-days", "0"],
            ["--keep-responses", "sometimes"],
            ["--file-max-mib", "0"],
            ["--batch-lines-at-once", "0"],
        ] {
            assert!(read(&words).unwrap_err().contains(words[0]), "{words:?}");
        }
    }
}

//! The settings of `vlinders up`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vlinders_frontend::KeptRules;
use vlinders_ledger::PriceTable;
use vlinders_service_kit::{Checks, Given, SettingValue};

use super::{
    AccessArgs, AccessSettings, AdminArgs, AdminSettings, EngineArgs, EngineSettings, KeptArgs, LogSettings,
    ModelArgs, ModelChoice, PriceArgs, ProcessArgs, QueueArgs, QueueSettings, StripeArgs, StripeSettings,
    Surroundings, TokenArgs, TokenSettings, WebhookArgs,
};

/// Flags of `vlinders up`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to listen
    #[arg(
        long,
        env = "LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8000"
    )]
    listen: Given<SocketAddr>,
    /// `split` runs a prefill and a decode role, `both` one worker that does both
    #[arg(long, env = "ROLE", default_value = "split")]
    role: Given<UpRole>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// Folder for usage, API keys and what is kept for tenants [default: $XDG_DATA_HOME/vlinders or ~/.local/share/vlinders]
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    prices: PriceArgs,
    #[command(flatten)]
    kept: KeptArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    webhook: WebhookArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// How the roles are laid out in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpRole {
    /// One prefill and one decode worker, with a hand-off between them.
    Split,
    /// One worker that does both.
    Both,
}

impl SettingValue for UpRole {
    fn read(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, true).map_err(|_| "is no role; use `split` or `both`".to_owned())
    }
}

/// Checked settings of `vlinders up`.
#[derive(Clone, Debug)]
pub(crate) struct UpSettings {
    pub(crate) model: ModelChoice,
    pub(crate) listen: SocketAddr,
    pub(crate) role: UpRole,
    pub(crate) engine: EngineSettings,
    pub(crate) queue: QueueSettings,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) access: AccessSettings,
    pub(crate) tokens: TokenSettings,
    pub(crate) prices: Option<PriceTable>,
    pub(crate) kept: KeptRules,
    pub(crate) admin: Option<AdminSettings>,
    pub(crate) stripe: Option<StripeSettings>,
    pub(crate) webhook_secret: Option<String>,
    pub(crate) log: LogSettings,
}

impl UpArgs {
    /// Reads all settings.
    ///
    /// # Errors
    /// One line with every fault.
    pub(crate) fn read(self, mut checks: Checks) -> anyhow::Result<UpSettings> {
        let listen = checks
            .value("listen", &self.listen)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let surroundings = Surroundings {
            listen,
            allows_anonymous: false,
            // Those in the data folder.
            knows_callers: true,
        };
        let prices = self.prices.read(&mut checks);
        let settings = UpSettings {
            model: self.model.read_one(&mut checks),
            listen,
            access: self.access.read(&surroundings, &mut checks),
            tokens: self.tokens.read(&mut checks),
            stripe: self.stripe.read(prices.is_some(), &mut checks),
            webhook_secret: self.webhook.read(true, &mut checks),
            prices,
            admin: self.admin.read(true, &mut checks),
            role: checks.value("role", &self.role).unwrap_or(UpRole::Split),
            engine: self.engine.read(&mut checks),
            queue: self.queue.read(&mut checks),
            data_dir: self.data_dir,
            kept: self.kept.read(&mut checks),
            log: self.process.read(&mut checks),
        };
        checks.finish()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UpArgs,
    }

    fn read(words: &[&str]) -> anyhow::Result<UpSettings> {
        let line = Line::try_parse_from(std::iter::once(&"up").chain(words)).unwrap();
        line.args.read(Checks::default())
    }

    #[test]
    fn the_defaults_are_sound() {
        read(&[]).unwrap();
    }

    #[test]
    fn all_faults_are_told_together() {
        let words = [
            "--max-num-seqs",
            "0",
            "--threads",
            "many",
            "--model",
            "/nowhere",
            "--listen",
            "nowhere",
        ];
        let line = read(&words).unwrap_err().to_string();
        for named in [
            "--max-num-seqs",
            "--threads: `many`",
            "--model: /nowhere",
            "--listen",
        ] {
            assert!(line.contains(named), "{line}");
        }
    }
}

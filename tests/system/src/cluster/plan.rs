//! What a cluster is to be made of.

use std::collections::BTreeMap;

/// One of the kinds of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Speaks HTTP.
    Frontend,
    /// Reads prompts.
    Prefill,
    /// Writes answers.
    Decode,
    /// Records usage.
    Usage,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Usage, Self::Prefill, Self::Decode, Self::Frontend];

    /// The subcommand.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Usage => "usage",
        }
    }
}

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct Plan {
    counts: BTreeMap<Role, usize>,
    arguments: BTreeMap<Role, Vec<String>>,
    /// Of single processes, by name.
    own_arguments: BTreeMap<String, Vec<String>>,
    variables: Vec<(String, String)>,
    /// How blocks go from worker to worker: `shm`, `tcp`, or both in the order of preference.
    pub transports: String,
    /// Every process is on a host of its own, joined by a switch. Takes root.
    pub has_hosts: bool,
    /// Further lines of the NATS server's configuration.
    pub nats: String,
    /// Frontends have the database: what is kept for tenants lies there.
    pub keeps: bool,
    /// Frontends have the database, and let nobody in without a key that is in it.
    pub requires_keys: bool,
}

impl Plan {
    /// Two frontends, two prefill workers, two decode workers and one that records usage.
    #[must_use]
    pub fn new() -> Self {
        let counts = [
            (Role::Frontend, 2),
            (Role::Prefill, 2),
            (Role::Decode, 2),
            (Role::Usage, 1),
        ];
        Self {
            counts: counts.into(),
            arguments: BTreeMap::new(),
            own_arguments: BTreeMap::new(),
            variables: Vec::new(),
            transports: "shm,tcp".to_owned(),
            has_hosts: false,
            nats: String::new(),
            keeps: false,
            requires_keys: false,
        }
    }

    /// So many processes of this role.
    #[must_use]
    pub fn with_count(mut self, role: Role, count: usize) -> Self {
        self.counts.insert(role, count);
        self
    }

    /// Further arguments of each process of this role.
    #[must_use]
    pub fn with_arguments(mut self, role: Role, arguments: &[&str]) -> Self {
        let all = self.arguments.entry(role).or_default();
        all.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Further arguments of one process: `decode-0`.
    #[must_use]
    pub fn with_arguments_of(mut self, name: &str, arguments: &[&str]) -> Self {
        let all = self.own_arguments.entry(name.to_owned()).or_default();
        all.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Further arguments of prefill and decode workers.
    #[must_use]
    pub fn with_worker_arguments(self, arguments: &[&str]) -> Self {
        self.with_arguments(Role::Prefill, arguments)
            .with_arguments(Role::Decode, arguments)
    }

    /// A variable every process sees.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whether frontends have the database.
    pub(super) fn has_database(&self) -> bool {
        self.keeps || self.requires_keys
    }

    pub(super) fn count(&self, role: Role) -> usize {
        self.counts.get(&role).copied().unwrap_or_default()
    }

    pub(super) fn arguments(&self, role: Role) -> &[String] {
        self.arguments.get(&role).map_or(&[], Vec::as_slice)
    }

    pub(super) fn arguments_of(&self, name: &str) -> &[String] {
        self.own_arguments.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

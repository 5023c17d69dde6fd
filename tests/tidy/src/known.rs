//! The map of the workspace: every crate with its floor, and every exception from the plain rules.
//!
//! A new crate starts here. An entry that no longer holds is a fault too, so the map stays true.

/// Every crate and its floor. Arrows point to lower floors.
pub const FLOORS: &[(&str, u8)] = &[
    ("vlinders-types", 0),
    ("vlinders-kernel-api", 0),
    ("vlinders-kernel-nixl", 1),
    ("vlinders-kernel-shared-memory", 1),
    ("vlinders-kv-blocks", 1),
    ("vlinders-openai-api", 1),
    ("vlinders-grammar", 1),
    ("vlinders-sampling", 1),
    ("vlinders-scheduler", 1),
    ("vlinders-text", 1),
    ("vlinders-wire", 1),
    ("vlinders-engine", 2),
    ("vlinders-kernel-cpu", 2),
    ("vlinders-kernel-cuda", 2),
    ("vlinders-kernel-reference", 2),
    ("vlinders-model", 2),
    ("vlinders-billing", 3),
    ("vlinders-bus", 3),
    ("vlinders-kv-transfer", 3),
    ("vlinders-ledger", 3),
    ("vlinders-service-kit", 3),
    ("vlinders-worker", 3),
    ("vlinders-decode", 4),
    ("vlinders-frontend", 4),
    ("vlinders-prefill", 4),
    ("vlinders-usage", 4),
    ("vlinders", 4),
    // Above everything: nothing depends on what tests and measures.
    ("vlinders-loadtest", 5),
    ("vlinders-simulation", 5),
    ("vlinders-system-tests", 5),
    ("vlinders-tidy", 5),
];

/// The arrows inside a floor: from the first to each of the others.
pub const SAME_FLOOR: &[(&str, &[&str])] = &[
    ("vlinders-kernel-api", &["vlinders-types"]),
    ("vlinders-grammar", &["vlinders-text"]),
    ("vlinders-scheduler", &["vlinders-kv-blocks"]),
    ("vlinders-engine", &["vlinders-model"]),
    ("vlinders-kernel-cpu", &["vlinders-kernel-reference"]),
    ("vlinders-kernel-cuda", &["vlinders-kernel-reference"]),
    ("vlinders-billing", &["vlinders-ledger", "vlinders-service-kit"]),
    (
        "vlinders-worker",
        &["vlinders-bus", "vlinders-kv-transfer", "vlinders-service-kit"],
    ),
    // The binary is every service; services do not know each other.
    (
        "vlinders",
        &[
            "vlinders-decode",
            "vlinders-frontend",
            "vlinders-prefill",
            "vlinders-usage",
        ],
    ),
];

/// Tests may use crates of their own floor. Here are those that may use one above: none.
pub const UPWARD_IN_TESTS: &[(&str, &[&str])] = &[];

/// What a crate must not know although it lies below: its own words are in ARCHITECTURE.md.
pub const MUST_NOT_KNOW: &[(&str, &[&str])] = &[
    (
        "vlinders-frontend",
        &[
            "vlinders-kv-blocks",
            "vlinders-scheduler",
            "vlinders-sampling",
            "vlinders-kernel-api",
            "vlinders-kernel-cpu",
            "vlinders-kernel-cuda",
            "vlinders-kernel-reference",
            "vlinders-model",
            "vlinders-engine",
            "vlinders-kv-transfer",
            "vlinders-worker",
        ],
    ),
    (
        "vlinders-usage",
        &[
            "vlinders-text",
            "vlinders-openai-api",
            "vlinders-worker",
            "axum",
            "hyper",
        ],
    ),
    ("vlinders-prefill", &["vlinders-openai-api", "axum", "hyper"]),
    ("vlinders-decode", &["vlinders-openai-api", "axum", "hyper"]),
    (
        "vlinders",
        &["vlinders-openai-api", "vlinders-kv-blocks", "vlinders-scheduler"],
    ),
    ("vlinders-worker", &["vlinders-openai-api", "axum", "hyper"]),
    (
        "vlinders-kv-transfer",
        &[
            "vlinders-model",
            "vlinders-engine",
            "vlinders-scheduler",
            "vlinders-text",
        ],
    ),
    (
        "vlinders-ledger",
        &["vlinders-wire", "vlinders-openai-api", "axum", "hyper"],
    ),
    ("vlinders-bus", &["vlinders-types", "vlinders-wire"]),
    ("vlinders-service-kit", &["vlinders-types", "vlinders-wire"]),
    (
        "vlinders-engine",
        &[
            "vlinders-scheduler",
            "vlinders-kv-blocks",
            "vlinders-text",
            "vlinders-wire",
        ],
    ),
    (
        "vlinders-model",
        &[
            "vlinders-scheduler",
            "vlinders-kv-blocks",
            "vlinders-text",
            "vlinders-wire",
        ],
    ),
    (
        "vlinders-kernel-cpu",
        &[
            "vlinders-scheduler",
            "vlinders-kv-blocks",
            "vlinders-text",
            "vlinders-wire",
        ],
    ),
    (
        "vlinders-kernel-cuda",
        &[
            "vlinders-scheduler",
            "vlinders-kv-blocks",
            "vlinders-text",
            "vlinders-wire",
        ],
    ),
    (
        "vlinders-kernel-reference",
        &[
            "vlinders-scheduler",
            "vlinders-kv-blocks",
            "vlinders-text",
            "vlinders-wire",
        ],
    ),
];

/// Crates that know no other of ours, wherever it lies: they look at the system from outside, as strangers do.
pub const STANDALONE: &[&str] = &["vlinders-loadtest"];

/// Outside crates that one crate has to itself.
pub const SOLE_OWNERS: &[(&str, &str)] = &[
    ("cudarc", "vlinders-kernel-cuda"),
    ("prost", "vlinders-wire"),
    ("llguidance", "vlinders-grammar"),
    ("rusqlite", "vlinders-ledger"),
    ("deadpool-postgres", "vlinders-ledger"),
    ("tokio-postgres", "vlinders-ledger"),
    ("redis", "vlinders-frontend"),
    ("async-nats", "vlinders-bus"),
    ("opentelemetry-otlp", "vlinders-service-kit"),
    ("opentelemetry_sdk", "vlinders-service-kit"),
];

/// From this floor on are tests: they read what the program sends with outside crates of their own.
pub const TESTS_FLOOR: u8 = 5;

/// Floors up to this one are synchronous: nothing there waits, so it runs under simulation and in the engine's thread.
pub const HIGHEST_SYNCHRONOUS_FLOOR: u8 = 2;

/// Outside crates that mean asynchrony.
pub const ASYNCHRONOUS: &[&str] = &["tokio", "tokio-util", "async-trait", "futures"];

/// Where `unsafe` may stand.
pub const UNSAFE_ALLOWED: &[&str] = &[
    "kernels/",
    // Mapping a file cannot be had without.
    "libs/model/src/mapping.rs",
];

/// Files that may be longer than the limit.
pub const LONG_ALLOWED: &[&str] = &[
    // Written by a generator, read by nobody.
    "libs/wire/src/generated.rs",
];

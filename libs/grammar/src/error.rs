//! What is wrong with a constraint.

/// A constraint that cannot be enforced, or not now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The constraint itself is at fault. The text is for whoever wrote it.
    #[error("{place}: {reason}")]
    Invalid {
        /// Where in the constraint: a JSON pointer, a line, or a name for the whole.
        place: String,
        /// What is wrong there, and what to do.
        reason: String,
    },
    /// It needs more than one request may use.
    #[error("is too complex: {reason}")]
    TooComplex {
        /// What was exceeded.
        reason: String,
    },
    /// Too many constraints are being compiled.
    #[error("too many constraints are being compiled")]
    Busy,
    /// The text so far leaves no token that may follow.
    #[error("no token may follow: {reason}")]
    DeadEnd {
        /// What the parser says.
        reason: String,
    },
}

impl GrammarError {
    /// Whether the same constraint may pass at another time.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Invalid { .. } | Self::TooComplex { .. } | Self::DeadEnd { .. } => false,
        }
    }

    pub(crate) fn invalid(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            place: place.into(),
            reason: reason.into(),
        }
    }
}

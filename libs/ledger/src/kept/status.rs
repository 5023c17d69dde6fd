//! The states of a batch, and the one function that changes them.

/// Where a batch stands. The names are those that clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchStatus {
    /// Its lines have not been looked at yet.
    Validating,
    /// Its lines are being answered.
    InProgress,
    /// Its files are being written.
    Finalizing,
    /// Every line has its answer.
    Completed,
    /// Its lines cannot be run, and none was.
    Failed,
    /// Its time was over before every line had its answer.
    Expired,
    /// No more lines are begun; its files are being written.
    Cancelling,
    /// It was cancelled.
    Cancelled,
}

/// Why no more lines are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchEnding {
    /// Every line has its answer.
    Answered,
    /// Its time is over.
    Expired,
    /// Its owner does not want it any more.
    Cancelled,
    /// The key it was made with lets nobody in any more.
    Refused,
}

/// What happens to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEvent {
    /// Its lines can be run.
    LinesAreGood,
    /// They cannot.
    LinesAreFaulty,
    /// Its owner does not want it any more.
    CancelAsked,
    /// No more lines are begun.
    NoMoreLines(BatchEnding),
    /// Its files are there.
    FilesAreReady(BatchEnding),
}

/// An event that cannot happen to a batch in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a batch that is {}", status.name())]
pub struct IllegalBatchStep {
    /// Where it stands.
    pub status: BatchStatus,
    /// What should have happened.
    pub event: BatchEvent,
}

impl BatchStatus {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Validating,
        Self::InProgress,
        Self::Finalizing,
        Self::Completed,
        Self::Failed,
        Self::Expired,
        Self::Cancelling,
        Self::Cancelled,
    ];

    /// The name for clients and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether there is something left to do.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Validating | Self::InProgress | Self::Finalizing | Self::Cancelling => true,
            Self::Completed | Self::Failed | Self::Expired | Self::Cancelled => false,
        }
    }

    /// Where it stands after the event.
    ///
    /// # Errors
    /// When this cannot happen to it.
    pub fn after(self, event: BatchEvent) -> Result<Self, IllegalBatchStep> {
        use {BatchEnding as D, BatchEvent as E, BatchStatus as S};
        Ok(match (self, event) {
            (S::Validating, E::LinesAreGood) => S::InProgress,
            (S::Validating, E::LinesAreFaulty) => S::Failed,
            (S::Validating | S::InProgress | S::Cancelling, E::CancelAsked) => S::Cancelling,
            (S::InProgress, E::NoMoreLines(D::Answered | D::Expired | D::Refused)) => S::Finalizing,
            (S::Cancelling, E::NoMoreLines(D::Cancelled)) => S::Cancelling,
            (S::Finalizing, E::FilesAreReady(D::Answered | D::Refused)) => S::Completed,
            (S::Finalizing, E::FilesAreReady(D::Expired)) => S::Expired,
            (S::Cancelling, E::FilesAreReady(D::Cancelled)) => S::Cancelled,
            (
                S::InProgress | S::Finalizing | S::Cancelling,
                E::LinesAreGood | E::LinesAreFaulty | E::NoMoreLines(_) | E::FilesAreReady(_),
            )
            | (S::Validating, E::NoMoreLines(_) | E::FilesAreReady(_))
            | (S::Finalizing, E::CancelAsked)
            | (S::Completed | S::Failed | S::Expired | S::Cancelled, _) => {
                return Err(IllegalBatchStep { status: self, event });
            }
        })
    }
}

impl BatchEnding {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Expired, Self::Cancelled, Self::Refused];

    /// The name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Refused => "refused",
        }
    }

    /// The ending of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ending| ending.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<BatchEvent> {
        let mut events = vec![
            BatchEvent::LinesAreGood,
            BatchEvent::LinesAreFaulty,
            BatchEvent::CancelAsked,
        ];
        for ending in BatchEnding::ALL {
            events.extend([BatchEvent::NoMoreLines(ending), BatchEvent::FilesAreReady(ending)]);
        }
        events
    }

    #[test]
    fn a_batch_that_has_ended_stays_as_it_is() {
        for status in BatchStatus::ALL.into_iter().filter(|status| !status.is_open()) {
            for event in events() {
                assert_eq!(status.after(event), Err(IllegalBatchStep { status, event }));
            }
        }
    }

    #[test]
    fn every_open_batch_can_come_to_an_end() {
        for status in BatchStatus::ALL.into_iter().filter(|status| status.is_open()) {
            let mut reached = vec![status];
            for _ in 0..BatchStatus::ALL.len() {
                let next = reached
                    .iter()
                    .flat_map(|status| events().into_iter().filter_map(|event| status.after(event).ok()));
                reached = next.chain(reached.iter().copied()).collect();
                reached.sort_by_key(|status| *status as u8);
                reached.dedup();
            }
            assert!(reached.iter().any(|status| !status.is_open()), "{status:?}");
        }
    }

    #[test]
    fn names_read_back() {
        for status in BatchStatus::ALL {
            assert_eq!(BatchStatus::named(status.name()), Some(status));
        }
        for ending in BatchEnding::ALL {
            assert_eq!(BatchEnding::named(ending.name()), Some(ending));
        }
        assert_eq!(BatchStatus::named("done"), None);
    }
}

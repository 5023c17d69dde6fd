//! Who answers for a stream's current attempt, as far as its chunks tell, and when it must go on elsewhere.

use std::time::Duration;

use tokio::time::Instant;
use vlinders_types::{Epoch, ModelName, WorkerId};

use crate::lives::{Book, End};

/// A hand-over takes some milliseconds. A stream whose new worker is heard this long after a decode worker was lost was
/// not with the lost one.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Missing chunks are waited for so long; workers send lost batches again within this time.
pub(super) const GAP: Duration = Duration::from_secs(3);
/// So long after a worker's last word nothing more comes from it.
const LAST_CHUNKS: Duration = Duration::from_millis(500);

/// Why a stream goes on with another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its worker is not heard any more.
    Silent,
    /// Nobody listens where its worker did.
    NoResponders,
    /// Its worker began another life.
    Restarted,
    /// A decode worker was lost that may just have taken it over.
    HandOver,
    /// Chunks are missing and did not come again.
    Gap,
    /// The queue is empty, and nobody has said a word about it.
    Unanswered,
    /// Its worker leaves and has given it back.
    HandedBack,
    /// Its worker has left without a word about it that came here.
    Left,
}

impl Cause {
    /// The name in logs and metric labels.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::NoResponders => "no_responders",
            Self::Restarted => "restarted",
            Self::HandOver => "hand_over",
            Self::Gap => "gap",
            Self::Unanswered => "unanswered",
            Self::HandedBack => "handed_back",
            Self::Left => "left",
        }
    }
}

/// Whose chunk it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Epoch,
}

/// Where an attempt stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Another stream of its request goes first.
    Waiting,
    /// It must be put into the queue.
    Unsent,
    /// In the queue, or with a worker that has not said a word yet.
    Queued { since: Instant },
    /// This worker took it out of the queue. No token of it has come.
    Taken { by: Origin, since: Instant },
    /// This worker sent the chunk that is furthest on.
    Held { by: Origin, position: u32, at: Instant },
}

/// The course of a stream's current attempt.
pub(crate) struct Course {
    standing: Standing,
    has_gap: bool,
    /// Since when batches are missing that may have been about it, perhaps its last ones. Cleared by the next chunk, whose
    /// position tells.
    doubted: Option<Instant>,
    told: Option<Instant>,
}

impl Course {
    /// The first attempt is put into the queue by whoever opens the stream.
    pub(crate) fn new() -> Self {
        Self {
            standing: Standing::Queued {
                since: Instant::now(),
            },
            has_gap: false,
            doubted: None,
            told: None,
        }
    }

    /// The first attempt waits until another stream of its request lets it go.
    pub(crate) fn waiting() -> Self {
        Self {
            standing: Standing::Waiting,
            ..Self::new()
        }
    }

    /// Lets a waiting one go. False when it does not wait.
    pub(crate) fn release(&mut self) -> bool {
        let is_waiting = self.standing == Standing::Waiting;
        if is_waiting {
            self.standing = Standing::Unsent;
        }
        is_waiting
    }

    /// The next attempt begins.
    pub(crate) fn begin(&mut self) {
        *self = Self {
            standing: Standing::Unsent,
            has_gap: false,
            doubted: None,
            told: None,
        };
    }

    /// The attempt is in the queue.
    pub(crate) fn sent(&mut self) {
        if self.standing == Standing::Unsent {
            self.standing = Standing::Queued {
                since: Instant::now(),
            };
        }
    }

    /// A chunk of this attempt brought something new.
    pub(crate) fn heard(&mut self, from: &Origin, chunk_position: u32) {
        match &self.standing {
            // Prefill's first token may arrive after decode's: decode answers all the same.
            Standing::Held { position, .. } if *position > chunk_position => {}
            Standing::Held { .. }
            | Standing::Waiting
            | Standing::Unsent
            | Standing::Queued { .. }
            | Standing::Taken { .. } => {
                self.standing = Standing::Held {
                    by: from.clone(),
                    position: chunk_position,
                    at: Instant::now(),
                };
                self.doubted = None;
            }
        }
    }

    /// A worker has taken this attempt out of the queue.
    pub(crate) fn taken(&mut self, by: &Origin) {
        match &self.standing {
            Standing::Waiting | Standing::Unsent | Standing::Queued { .. } | Standing::Taken { .. } => {
                self.standing = Standing::Taken {
                    by: by.clone(),
                    since: Instant::now(),
                };
            }
            Standing::Held { .. } => {}
        }
    }

    /// Batches of this worker did not come. What it has not begun yet cannot be in them, but what prefill handed to it may
    /// be over already.
    pub(crate) fn doubt(&mut self, worker: &WorkerId, book: &Book) {
        if let Standing::Held { by, .. } = &self.standing
            && (by.worker == *worker || book.hands_over(&by.worker))
        {
            self.doubted.get_or_insert_with(Instant::now);
        }
    }

    /// Chunks are missing that cannot be had any more.
    pub(crate) fn lost_track(&mut self) {
        self.has_gap = true;
    }

    pub(crate) fn is_unsent(&self) -> bool {
        self.standing == Standing::Unsent
    }

    /// Who said the most of this attempt.
    pub(crate) fn held_by(&self) -> Option<&WorkerId> {
        match &self.standing {
            Standing::Held { by, .. } | Standing::Taken { by, .. } => Some(&by.worker),
            Standing::Waiting | Standing::Unsent | Standing::Queued { .. } => None,
        }
    }

    /// How long this attempt has been out without a token.
    pub(crate) fn unanswered(&self) -> Option<Duration> {
        match &self.standing {
            Standing::Queued { since } | Standing::Taken { since, .. } => Some(since.elapsed()),
            Standing::Waiting | Standing::Unsent | Standing::Held { .. } => None,
        }
    }

    /// Whether a worker that goes on with an old attempt should be told now; not more often than each `pause`.
    pub(crate) fn tell_again(&mut self, pause: Duration) -> bool {
        let is_due = self.told.is_none_or(|told| told.elapsed() >= pause);
        if is_due {
            self.told = Some(Instant::now());
        }
        is_due
    }

    /// Why the stream must go on elsewhere, if it must.
    pub(crate) fn cause(&self, book: &Book, model: &ModelName) -> Option<Cause> {
        let (by, at) = match &self.standing {
            Standing::Waiting | Standing::Unsent | Standing::Queued { .. } => {
                return self.has_gap.then_some(Cause::Gap);
            }
            Standing::Taken { by, .. } => (by, None),
            Standing::Held { by, at, .. } => (by, Some(at)),
        };
        match book.end_of(&by.worker, by.epoch) {
            Some(End::Silent) => return Some(Cause::Silent),
            Some(End::NoResponders) => return Some(Cause::NoResponders),
            Some(End::Restarted) => return Some(Cause::Restarted),
            // What it had only taken is in the queue again.
            Some(End::Left { .. }) if at.is_none() => return None,
            // Its last chunks may come after its last beacon. What prefill holds to its end goes on elsewhere anyway.
            Some(End::Left { at }) if at.elapsed() >= LAST_CHUNKS && !book.hands_over(&by.worker) => {
                return Some(Cause::Left);
            }
            Some(End::Left { .. }) | None => {}
        }
        if self.has_gap || self.doubted.is_some_and(|since| since.elapsed() >= GAP) {
            return Some(Cause::Gap);
        }
        // As long as no token has come, prefill answers and offers it to somebody else by itself.
        let at = at?;
        let lost = book.decode_lost(model).filter(|lost| lost >= at)?;
        (book.hands_over(&by.worker) && lost.elapsed() >= HAND_OVER).then_some(Cause::HandOver)
    }
}

#[cfg(test)]
mod tests {
    use vlinders_types::{Beacon, Pool, Presence};

    use super::*;
    use crate::lives::Lives;
    use crate::lives::tests::beacon;

    fn origin(worker: &str, epoch: u64) -> Origin {
        Origin {
            worker: WorkerId::new(worker),
            epoch: Epoch(epoch),
        }
    }

    fn lives() -> Lives {
        let lives = Lives::new(Duration::from_secs(3));
        lives.hear_beacon(&beacon("p", Pool::Prefill, 1));
        lives.hear_beacon(&beacon("d", Pool::Decode, 1));
        lives
    }

    fn cause(course: &Course, lives: &Lives) -> Option<Cause> {
        course.cause(&lives.look(), &ModelName::new("m"))
    }

    #[tokio::test(start_paused = true)]
    async fn prefills_late_first_token_does_not_take_the_stream_back() {
        let (lives, mut course) = (lives(), Course::new());
        course.heard(&origin("d", 1), 1);
        course.heard(&origin("p", 1), 0);
        lives.hear_beacon(&beacon("p", Pool::Prefill, 2));
        assert_eq!(cause(&course, &lives), None);
        lives.hear_beacon(&beacon("d", Pool::Decode, 2));
        assert_eq!(cause(&course, &lives), Some(Cause::Restarted));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stays_silent_after_batches_were_lost_goes_on_elsewhere() {
        let lives = lives();
        let by = |worker: &str| {
            let mut course = Course::new();
            course.heard(&origin(worker, 1), 1);
            course
        };
        let (mut theirs, mut handed, mut others, mut heard) = (by("d"), by("p"), by("e"), by("d"));
        for course in [&mut theirs, &mut handed, &mut others, &mut heard] {
            course.doubt(&WorkerId::new("d"), &lives.look());
        }
        tokio::time::advance(GAP / 2).await;
        heard.heard(&origin("d", 1), 2);
        for worker in ["p", "d", "e"] {
            lives.hear_beacon(&beacon(worker, Pool::Prefill, 1));
        }
        assert_eq!(cause(&theirs, &lives), None);
        tokio::time::advance(GAP / 2).await;
        assert_eq!(cause(&theirs, &lives), Some(Cause::Gap));
        assert_eq!(cause(&handed, &lives), Some(Cause::Gap));
        assert_eq!(cause(&others, &lives), None);
        assert_eq!(cause(&heard, &lives), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_lost_while_it_was_handed_over_is_noticed() {
        let (lives, mut course) = (lives(), Course::new());
        course.heard(&origin("p", 1), 0);
        tokio::time::advance(Duration::from_millis(10)).await;
        lives.hear_beacon(&beacon("d", Pool::Decode, 2));
        assert_eq!(cause(&course, &lives), None, "it may be with another one");
        tokio::time::advance(HAND_OVER).await;
        assert_eq!(cause(&course, &lives), Some(Cause::HandOver));
        course.heard(&origin("d", 2), 1);
        assert_eq!(cause(&course, &lives), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_lost_worker_had_taken_goes_on_elsewhere() {
        let (lives, mut course) = (lives(), Course::new());
        course.taken(&origin("p", 1));
        assert_eq!(course.held_by(), Some(&WorkerId::new("p")));
        tokio::time::advance(HAND_OVER).await;
        lives.hear_beacon(&beacon("d", Pool::Decode, 2));
        tokio::time::advance(HAND_OVER).await;
        assert_eq!(cause(&course, &lives), None, "prefill offers it to somebody else");
        assert_eq!(course.unanswered(), Some(2 * HAND_OVER));
        lives.end(&WorkerId::new("p"), Epoch(1));
        assert_eq!(cause(&course, &lives), Some(Cause::NoResponders));
        course.taken(&origin("q", 1));
        assert_eq!(cause(&course, &lives), None, "the queue has found another one");
        course.heard(&origin("d", 2), 0);
        course.taken(&origin("p", 1));
        assert_eq!(cause(&course, &lives), None, "a late word takes nothing back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_leaves_gives_back_what_it_had_only_taken() {
        let (lives, mut course) = (lives(), Course::new());
        course.taken(&origin("d", 1));
        lives.hear_beacon(&Beacon {
            presence: Presence::Left,
            ..beacon("d", Pool::Decode, 1)
        });
        tokio::time::advance(2 * LAST_CHUNKS).await;
        assert_eq!(cause(&course, &lives), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_in_the_queue_is_nobodys_to_lose() {
        let (lives, mut course) = (lives(), Course::new());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(course.unanswered(), Some(Duration::from_secs(1)));
        lives.hear_beacon(&beacon("d", Pool::Decode, 2));
        tokio::time::advance(HAND_OVER).await;
        assert_eq!(cause(&course, &lives), None);
        course.begin();
        assert!(course.is_unsent() && course.unanswered().is_none());
        course.sent();
        assert_eq!(course.unanswered(), Some(Duration::ZERO));
    }
}

//! Which workers' lives are over, as far as their beacons and batches tell.
//!
//! Silence of one worker means something only while others are heard. When nobody is, the frontend itself is cut off
//! or was stopped; and when it hears again, everybody's silence counts from then on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use vlinders_types::{Beacon, Epoch, ModelName, Pool, Presence, WorkerId};

/// A life that ended so long ago is remembered by nobody's stream.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How a worker's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was silent for too long.
    Silent,
    /// Nobody listens any more where it did.
    NoResponders,
    /// The worker began another life.
    Restarted,
    /// It said so itself, and that it held nothing any more.
    Left {
        /// When.
        at: Instant,
    },
}

/// The lives of all workers heard of.
pub(crate) struct Lives {
    /// A worker silent for this long is gone.
    silence: Duration,
    book: Mutex<Book>,
}

/// What is known, while nothing changes.
#[derive(Default)]
pub(crate) struct Book {
    known: HashMap<WorkerId, Life>,
    /// The last sign of life of anybody.
    heard: Option<Instant>,
    /// When a decode worker of a model was last lost.
    decode_lost: HashMap<ModelName, Instant>,
}

struct Life {
    epoch: Epoch,
    /// The last sign of life.
    at: Instant,
    ended: Option<End>,
    /// When it was last asked whether it lives.
    asked: Instant,
    model: Option<ModelName>,
    /// Known by its beacons.
    is_prefill: bool,
    is_decode: bool,
}

impl Life {
    fn new(epoch: Epoch, now: Instant) -> Self {
        Self {
            epoch,
            at: now,
            ended: None,
            asked: now,
            model: None,
            is_prefill: false,
            is_decode: false,
        }
    }
}

impl Lives {
    pub(crate) fn new(silence: Duration) -> Self {
        Self {
            silence,
            book: Mutex::default(),
        }
    }

    /// A batch came from this life.
    pub(crate) fn hear(&self, worker: &WorkerId, epoch: Epoch) {
        let mut book = self.lock();
        self.note(&mut book, worker, epoch);
    }

    /// A beacon came.
    pub(crate) fn hear_beacon(&self, beacon: &Beacon) {
        let mut book = self.lock();
        let Some(life) = self.note(&mut book, &beacon.worker, beacon.epoch) else {
            return;
        };
        if life.model.is_none() {
            life.model = Some(beacon.model.clone());
        }
        match beacon.pool {
            Pool::Prefill => life.is_prefill = true,
            Pool::Decode => life.is_decode = true,
        }
        match beacon.presence {
            Presence::Serving | Presence::Draining => {}
            Presence::Left => {
                life.ended = Some(End::Left { at: life.at });
                // What it had to say to a stream may be lost.
                book.note_loss(&beacon.worker);
            }
        }
    }

    /// Nobody listens where this life did.
    pub(crate) fn end(&self, worker: &WorkerId, epoch: Epoch) {
        let mut book = self.lock();
        if let Some(life) = book.known.get_mut(worker).filter(|life| life.epoch == epoch) {
            life.ended.get_or_insert(End::NoResponders);
            book.note_loss(worker);
        }
    }

    /// Lives that are suspiciously silent and should be asked, each at most once in a while.
    pub(crate) fn suspects(&self) -> Vec<(WorkerId, Epoch)> {
        let (now, mut book) = (Instant::now(), self.lock());
        if self.is_deaf(&book, now) {
            return Vec::new();
        }
        let patience = self.silence / 3;
        let mut suspects = Vec::new();
        for (worker, life) in &mut book.known {
            let is_quiet = life.ended.is_none() && now.duration_since(life.at) >= patience;
            if is_quiet && now.duration_since(life.asked) >= patience {
                life.asked = now;
                suspects.push((worker.clone(), life.epoch));
            }
        }
        suspects
    }

    /// What is known now. Nothing changes while it is held.
    pub(crate) fn look(&self) -> MutexGuard<'_, Book> {
        let (now, mut book) = (Instant::now(), self.lock());
        book.known
            .retain(|_, life| now.duration_since(life.at) < FORGOTTEN);
        if !self.is_deaf(&book, now) {
            let silent: Vec<WorkerId> = book
                .known
                .iter_mut()
                .filter(|(_, life)| life.ended.is_none() && now.duration_since(life.at) >= self.silence)
                .map(|(worker, life)| {
                    life.ended = Some(End::Silent);
                    worker.clone()
                })
                .collect();
            for worker in &silent {
                book.note_loss(worker);
            }
        }
        book
    }

    /// Nobody was heard lately: it is we who cannot hear.
    fn is_deaf(&self, book: &Book, now: Instant) -> bool {
        book.heard
            .is_none_or(|heard| now.duration_since(heard) >= self.silence / 2)
    }

    /// The life a sign belongs to; none when that life is over.
    fn note<'a>(&self, book: &'a mut Book, worker: &WorkerId, epoch: Epoch) -> Option<&'a mut Life> {
        let now = Instant::now();
        if self.is_deaf(book, now) {
            for life in book.known.values_mut() {
                life.at = now;
            }
        }
        book.heard = Some(now);
        let known = book.known.get(worker).map(|life| life.epoch);
        if known.is_some_and(|known| known > epoch) {
            return None;
        }
        if known.is_some_and(|known| known < epoch) {
            book.note_loss(worker);
            book.known.remove(worker);
        }
        let life = book
            .known
            .entry(worker.clone())
            .or_insert_with(|| Life::new(epoch, now));
        match life.ended {
            // What comes now was said before.
            Some(End::Left { .. }) => None,
            // Whoever speaks again was only slow. What was moved away from it stays where it went.
            None | Some(End::Silent | End::NoResponders | End::Restarted) => {
                (life.at, life.ended) = (now, None);
                Some(life)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// How this life ended, if it did.
    pub(crate) fn end_of(&self, worker: &WorkerId, epoch: Epoch) -> Option<End> {
        let life = self.known.get(worker)?;
        if life.epoch > epoch {
            Some(End::Restarted)
        } else {
            life.ended
        }
    }

    /// Whether it only begins sequences, for others to go on with.
    pub(crate) fn hands_over(&self, worker: &WorkerId) -> bool {
        self.known
            .get(worker)
            .is_some_and(|life| life.is_prefill && !life.is_decode)
    }

    /// When a decode worker of this model was last lost.
    pub(crate) fn decode_lost(&self, model: &ModelName) -> Option<Instant> {
        self.decode_lost.get(model).copied()
    }

    fn note_loss(&mut self, worker: &WorkerId) {
        let Some(life) = self.known.get(worker) else {
            return;
        };
        if let (true, Some(model)) = (life.is_decode, &life.model) {
            self.decode_lost.insert(model.clone(), Instant::now());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(3);
    const STEP: Duration = Duration::from_millis(250);

    /// A beacon of this life. It tells of nothing else.
    pub(crate) fn beacon(worker: &str, pool: Pool, epoch: u64) -> Beacon {
        Beacon {
            pool,
            worker: WorkerId::new(worker),
            epoch: Epoch(epoch),
            model: ModelName::new("m"),
            free_blocks: 0,
            total_blocks: 0,
            running: 0,
            max_running: 0,
            queued_tokens: 0,
            last_batch_seq: Vec::new(),
            presence: Presence::Serving,
            recent_prefixes: [].into(),
        }
    }

    /// So many beacons of `worker`, one each [`STEP`].
    async fn beat(lives: &Lives, worker: &str, count: u32) {
        for _ in 0..count {
            lives.hear_beacon(&beacon(worker, Pool::Prefill, 1));
            tokio::time::advance(STEP).await;
        }
    }

    fn end_of(lives: &Lives, worker: &str, epoch: u64) -> Option<End> {
        lives.look().end_of(&WorkerId::new(worker), Epoch(epoch))
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_while_others_speak_is_lost() {
        let lives = Lives::new(SILENCE);
        lives.hear_beacon(&beacon("d", Pool::Decode, 1));
        beat(&lives, "p", 11).await;
        assert_eq!(end_of(&lives, "d", 1), None);
        beat(&lives, "p", 1).await;
        assert_eq!(end_of(&lives, "d", 1), Some(End::Silent));
        assert_eq!(
            lives.look().decode_lost(&ModelName::new("m")),
            Some(Instant::now())
        );
        lives.hear(&WorkerId::new("d"), Epoch(1));
        assert_eq!(end_of(&lives, "d", 1), None, "it was only slow");
    }

    #[tokio::test(start_paused = true)]
    async fn when_nobody_is_heard_nobody_is_lost() {
        let lives = Lives::new(SILENCE);
        lives.hear_beacon(&beacon("d", Pool::Decode, 1));
        lives.hear_beacon(&beacon("p", Pool::Prefill, 1));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!((end_of(&lives, "d", 1), end_of(&lives, "p", 1)), (None, None));
        beat(&lives, "p", 11).await;
        assert_eq!(
            end_of(&lives, "d", 1),
            None,
            "its silence counts from when we heard again"
        );
        beat(&lives, "p", 1).await;
        assert_eq!(end_of(&lives, "d", 1), Some(End::Silent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_life_ends_the_one_before() {
        let lives = Lives::new(SILENCE);
        lives.hear_beacon(&beacon("d", Pool::Decode, 1));
        lives.hear_beacon(&beacon("d", Pool::Decode, 2));
        assert_eq!(end_of(&lives, "d", 1), Some(End::Restarted));
        lives.hear(&WorkerId::new("d"), Epoch(1));
        assert_eq!(
            (end_of(&lives, "d", 1), end_of(&lives, "d", 2)),
            (Some(End::Restarted), None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_are_asked_in_time_and_not_all_the_time() {
        let lives = Lives::new(SILENCE);
        lives.hear_beacon(&beacon("d", Pool::Decode, 1));
        beat(&lives, "p", 3).await;
        assert_eq!(lives.suspects(), []);
        beat(&lives, "p", 1).await;
        let suspect = (WorkerId::new("d"), Epoch(1));
        assert_eq!(lives.suspects(), std::slice::from_ref(&suspect));
        assert_eq!(lives.suspects(), []);
        lives.end(&suspect.0, suspect.1);
        assert_eq!(end_of(&lives, "d", 1), Some(End::NoResponders));
    }

    #[tokio::test(start_paused = true)]
    async fn only_pure_prefill_workers_hand_over() {
        let lives = Lives::new(SILENCE);
        lives.hear_beacon(&beacon("both", Pool::Prefill, 1));
        assert!(lives.look().hands_over(&WorkerId::new("both")));
        lives.hear_beacon(&beacon("both", Pool::Decode, 1));
        assert!(!lives.look().hands_over(&WorkerId::new("both")));
    }
}

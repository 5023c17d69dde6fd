//! The task that sends what is kept, adopts what others left, and syncs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::book::Number;
use super::{Inner, Spool, SpoolLoad, SpoolSync, SpoolUntil};
use crate::teeth::bites;
use crate::{Bus, BusError, Enqueued, StreamName};

/// Pause after the bus did not take a message that it may take later.
const SEND_AGAIN: Duration = Duration::from_millis(200);
/// Pause for a message that the bus refuses: only people can change that.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);
/// How often a stream is asked whether all of it is handled.
const HANDLED_AGAIN: Duration = Duration::from_millis(50);
/// How often the age of the oldest message is told.
const AGE: Duration = Duration::from_secs(1);

/// What the bus said.
enum Answer {
    Sent(Number, Result<Enqueued, BusError>),
    /// To messages that were stored before it was asked.
    Pending(StreamName, Vec<Number>, Result<u64, BusError>),
}

struct Sender {
    inner: Arc<Inner>,
    bus: Arc<dyn Bus>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    in_flight: usize,
    /// Streams that are being asked.
    asking: usize,
    /// The bus takes nothing now.
    paused_until: Option<Instant>,
    ask_at: Instant,
    adopt_at: Instant,
    sync_at: Instant,
}

impl Spool {
    /// Sends what is kept and what others left behind. `observe` hears how much waits.
    ///
    /// Once `stopping` is cancelled, it ends when everything is settled and no other clone of the spool is left, or when
    /// nothing new has come for [`super::SpoolOptions::leave_within`]. What is kept after that lies in the file until
    /// somebody adopts it.
    pub async fn run(
        self,
        bus: Arc<dyn Bus>,
        stopping: CancellationToken,
        observe: impl Fn(SpoolLoad) + Send,
    ) {
        let inner = Arc::clone(&self.handle.inner);
        // What counts is who may still keep something.
        drop(self);
        let now = Instant::now();
        let mut sender = Sender {
            inner,
            bus,
            answers: FuturesUnordered::new(),
            in_flight: 0,
            asking: 0,
            paused_until: None,
            ask_at: now,
            adopt_at: now,
            sync_at: now,
        };
        let mut stopped_at = None;
        loop {
            let leave_at = stopped_at.map(|stopped_at| sender.leave_at(stopped_at));
            if sender.is_over(leave_at) {
                break;
            }
            sender.send_due();
            observe(sender.inner.load());
            let wake_at = sender.wake_at(leave_at);
            tokio::select! {
                biased;
                () = stopping.cancelled(), if stopped_at.is_none() => stopped_at = Some(Instant::now()),
                Some(answer) = sender.answers.next() => sender.hear(answer).await,
                () = sender.inner.news.notified() => {}
                () = sleep_until(wake_at) => sender.look_around().await,
            }
        }
        sender.leave(observe).await;
    }
}

impl Sender {
    /// Until when it goes on although something is left: as long as messages still come, they may find their way.
    fn leave_at(&self, stopped_at: Instant) -> Instant {
        let last = self.inner.book().entered_at();
        last.map_or(stopped_at, |last| last.max(stopped_at)) + self.inner.options.leave_within
    }

    fn is_over(&self, leave_at: Option<Instant>) -> bool {
        let Some(leave_at) = leave_at else { return false };
        let is_done = self.inner.is_abandoned.load(Ordering::Acquire) && self.inner.book().len() == 0;
        is_done || Instant::now() >= leave_at
    }

    /// When something is to be done although nothing happens.
    fn wake_at(&self, leave_at: Option<Instant>) -> Instant {
        let (inner, now) = (&self.inner, Instant::now());
        let (next_due, has_stored, has_some) = {
            let book = inner.book();
            (book.next_due(), book.has_stored(), book.len() > 0)
        };
        let syncs = self.sync_every().is_some() && inner.is_dirty.load(Ordering::Relaxed);
        [
            Some(self.adopt_at),
            leave_at,
            self.paused_until,
            next_due.filter(|_| self.paused_until.is_none()),
            (has_stored && self.asking == 0).then_some(self.ask_at),
            syncs.then_some(self.sync_at),
            has_some.then(|| now + AGE),
        ]
        .into_iter()
        .flatten()
        .min()
        .expect("adoption has its time")
    }

    fn sync_every(&self) -> Option<Duration> {
        match self.inner.options.sync {
            SpoolSync::Every(pause) => Some(pause),
            SpoolSync::BeforeKept | SpoolSync::Never => None,
        }
    }

    /// Sends what is due, as far as there may be more on the way.
    fn send_due(&mut self) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        self.paused_until = None;
        while self.in_flight < self.inner.options.in_flight.max(1) {
            let Some((number, message)) = self.inner.book().take_due(now) else {
                return;
            };
            self.in_flight += 1;
            let bus = Arc::clone(&self.bus);
            self.answers.push(Box::pin(async move {
                let sent = bus
                    .enqueue(message.stream, &message.subject, &message.id, message.payload)
                    .await;
                Answer::Sent(number, sent)
            }));
        }
    }

    /// Takes in one answer and all others that are there.
    async fn hear(&mut self, first: Answer) {
        let mut next = Some(first);
        let mut has_settled = false;
        while let Some(answer) = next {
            has_settled |= self.take_in(answer);
            next = futures::FutureExt::now_or_never(self.answers.next()).flatten();
        }
        if has_settled {
            self.inner.on_disk(Inner::tidy).await;
            self.inner.room.notify_waiters();
        }
    }

    /// True when something is settled by it.
    fn take_in(&mut self, answer: Answer) -> bool {
        match answer {
            Answer::Sent(number, sent) => {
                self.in_flight -= 1;
                match sent {
                    Ok(Enqueued::Stored | Enqueued::Duplicate) => self.stored(number),
                    Err(error) => {
                        self.not_stored(number, &error);
                        false
                    }
                }
            }
            Answer::Pending(stream, numbers, pending) => {
                self.asking -= 1;
                self.ask_at = Instant::now() + HANDLED_AGAIN;
                match pending {
                    Ok(0) => {
                        let mut book = self.inner.book();
                        for number in numbers {
                            book.settle(number);
                        }
                        true
                    }
                    Ok(_) => false,
                    Err(error) => {
                        tracing::warn!(%error, stream = stream.name(), "it is not known how much is handled");
                        false
                    }
                }
            }
        }
    }

    fn stored(&mut self, number: Number) -> bool {
        if self.inner.is_stuck.swap(false, Ordering::Relaxed) {
            tracing::info!(place = %self.inner.place.name(), "the bus takes messages of the spool again");
        }
        let mut book = self.inner.book();
        book.stored(number);
        match self.inner.options.until {
            SpoolUntil::Stored => {
                book.settle(number);
                true
            }
            SpoolUntil::Handled => {
                drop(book);
                self.inner.room.notify_waiters();
                false
            }
        }
    }

    fn not_stored(&mut self, number: Number, error: &BusError) {
        let (now, place) = (Instant::now(), self.inner.place.name());
        if !error.is_retryable() {
            tracing::error!(%error, %place, "the bus refuses a message of the spool; it stays there");
            self.inner.book().put_back(number, Some(now + REFUSED_AGAIN));
            return;
        }
        if bites("spool-not-sent-again") {
            return self.inner.book().settle(number);
        }
        self.inner.stuck(error);
        self.paused_until = Some(now + SEND_AGAIN);
        self.inner.book().put_back(number, None);
    }

    /// Does what has its time.
    async fn look_around(&mut self) {
        let now = Instant::now();
        if now >= self.adopt_at {
            self.adopt().await;
            self.adopt_at = Instant::now() + self.inner.options.adopt_every;
        }
        if let Some(pause) = self.sync_every()
            && now >= self.sync_at
            && self.inner.is_dirty.load(Ordering::Relaxed)
        {
            self.sync_at = now + pause;
            self.inner.on_disk(Inner::sync).await;
        }
        if now >= self.ask_at && self.asking == 0 {
            self.ask_handled();
        }
    }

    fn ask_handled(&mut self) {
        for (stream, numbers) in self.inner.book().all_stored() {
            self.asking += 1;
            let bus = Arc::clone(&self.bus);
            self.answers.push(Box::pin(async move {
                Answer::Pending(stream, numbers, bus.pending(stream).await)
            }));
        }
    }

    /// Takes over everything that is nobody's.
    async fn adopt(&mut self) {
        let mut has_adopted = false;
        loop {
            match self.inner.on_disk(Inner::adopt).await {
                Ok(None) => break,
                Ok(Some(adopted)) => {
                    has_adopted = true;
                    tell(&adopted);
                }
                Err(error) => {
                    tracing::error!(%error, place = %self.inner.place.name(), "spool files of others cannot be read");
                    break;
                }
            }
        }
        if has_adopted {
            // Those without a message go at once.
            self.inner.on_disk(Inner::tidy).await;
        }
    }

    async fn leave(self, observe: impl Fn(SpoolLoad) + Send) {
        let Self { inner, answers, .. } = self;
        drop(answers);
        inner.book().let_go();
        let tidy = |inner: &Inner| {
            inner.close();
            inner.tidy();
        };
        inner.on_disk(tidy).await;
        if inner.options.sync != SpoolSync::Never {
            inner.on_disk(Inner::sync).await;
        }
        let load = inner.load();
        observe(load);
        if load.messages > 0 {
            let (messages, place) = (load.messages, inner.place.name());
            tracing::warn!(
                messages,
                place,
                "messages stay in the spool; the next process there sends them"
            );
        }
    }
}

fn tell(adopted: &super::files::Adopted) {
    let super::files::Adopted {
        name,
        messages,
        damaged_bytes,
        torn_bytes,
    } = adopted;
    if *damaged_bytes > 0 {
        tracing::error!(
            file = name,
            damaged_bytes,
            "a spool file is damaged: what is lost there stays beside it for people to read"
        );
    }
    if *messages > 0 || *torn_bytes > 0 {
        tracing::info!(
            file = name,
            messages,
            torn_bytes,
            "messages of a process that is gone are sent from here"
        );
    }
}

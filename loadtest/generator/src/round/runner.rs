//! Sends what is due and takes in what has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::arrivals::{Arrivals, Load};
use super::phase::{Event, Phase};
use super::{Alarm, Flow, Round, RoundResult};
use crate::client::{Asked, Client, Link, Order};
use crate::lengths::Lengths;
use crate::objectives::Objectives;
use crate::prompts::Prompts;
use crate::random::Random;
use crate::recorder::{Recorder, Tally};
use crate::request::RequestWriter;
use crate::watch::{Watch, WatchedProcess, own_cpu_s};

/// How often processes are looked at and progress is shown.
const TICK: Duration = Duration::from_millis(250);

/// Becomes true when everything shall end at once.
pub type StopSignal = watch::Receiver<bool>;

/// What lasts from one round to the next: prompts are not repeated, and connections are kept.
pub(crate) struct Session {
    pub(crate) client: Arc<Client>,
    pub(crate) prompts: Prompts,
    pub(crate) writer: RequestWriter,
    pub(crate) output_lengths: Lengths,
    pub(crate) output_random: Random,
    pub(crate) objectives: Option<Objectives>,
    pub(crate) checks_usage: bool,
    pub(crate) watched: Vec<WatchedProcess>,
    pub(crate) seed: u64,
    pub(crate) alarm: Alarm,
    /// Idle connections of each target; the one used last is taken first.
    pub(crate) links: Vec<Vec<Link>>,
    pub(crate) next_target: usize,
    pub(crate) stop: StopSignal,
}

/// How far a round has come.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) round: &'a Round,
    pub(crate) phase: Phase,
    /// Since the phase's beginning.
    pub(crate) elapsed: Duration,
    pub(crate) in_flight: usize,
    pub(crate) flow: Flow,
    pub(crate) recorder: &'a Recorder,
}

impl Session {
    /// Carries out a round. `show` is told how far it is, about every quarter of a second.
    pub(crate) async fn run(&mut self, round: &Round, show: &mut dyn FnMut(&Snapshot<'_>)) -> RoundResult {
        let start = Instant::now();
        let mut runner = Runner {
            arrivals: match round.load {
                Load::Rate(rate) => Some(Arrivals::new(rate, start, self.seed)),
                Load::Concurrency(_) => None,
            },
            next_body: self.next_body(),
            watched: Vec::new(),
            before: Flow::default(),
            exchanges: JoinSet::new(),
            phase: Phase::begin(start + round.warm_up),
            phase_start: start,
            measured_from: None,
            window_end: None,
            total: Tally::default(),
            recorder: Recorder::new(self.objectives, self.checks_usage),
            measured_in_flight: 0,
            most_in_flight: 0,
            never_sent: 0,
            round: *round,
            session: self,
        };
        runner.before = runner.flow();
        let was_stopped = runner.run(show).await;
        runner.result(was_stopped)
    }

    fn next_body(&mut self) -> Bytes {
        let tokens = self.output_lengths.draw(&mut self.output_random);
        self.writer.body(&self.prompts.take(), tokens)
    }

    /// A connection to this target that nobody uses, if there is one that is open.
    fn idle_link(&mut self, target: usize) -> Option<Link> {
        loop {
            let mut link = self.links[target].pop()?;
            if link.is_open() {
                return Some(link);
            }
        }
    }
}

struct Runner<'a> {
    session: &'a mut Session,
    round: Round,
    /// None in a closed loop.
    arrivals: Option<Arrivals>,
    /// Made ahead, so that making it does not delay its sending.
    next_body: Bytes,
    exchanges: JoinSet<Asked>,
    phase: Phase,
    phase_start: Instant,
    /// Requests due from here on count.
    measured_from: Option<Instant>,
    window_end: Option<WindowEnd>,
    /// Of all requests of the round.
    total: Tally,
    recorder: Recorder,
    measured_in_flight: u64,
    most_in_flight: u64,
    never_sent: u64,
    before: Flow,
    watched: Vec<Watch>,
}

/// What had come when the window ended.
#[derive(Clone, Copy)]
struct WindowEnd {
    at: Instant,
    flow: Flow,
}

impl Runner<'_> {
    /// Returns whether it was stopped before its end.
    async fn run(&mut self, show: &mut dyn FnMut(&Snapshot<'_>)) -> bool {
        let mut ticks: Interval = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut stop = self.session.stop.clone();
        if self.round.warm_up.is_zero() {
            self.on_time_up();
        }
        while self.phase.sends() || !self.exchanges.is_empty() {
            let next = self.next_due();
            tokio::select! {
                biased;
                // An error means that nobody is left who could stop it; then this branch waits for ever.
                Ok(_) = stop.wait_for(|stops| *stops) => {
                    self.end_window(Instant::now());
                    return true;
                }
                _ = ticks.tick() => {
                    for watch in &mut self.watched {
                        watch.look();
                    }
                    show(&self.snapshot());
                }
                () = at(self.phase.time_up()) => self.on_time_up(),
                () = due(&mut self.session.alarm, next) => self.send(next),
                Some(asked) = self.exchanges.join_next(), if !self.exchanges.is_empty() => match asked {
                    Ok(asked) => self.take_in(asked),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
            }
        }
        // With a number of requests, the window ends with the last of them.
        self.end_window(Instant::now());
        false
    }

    /// When the next request is to be sent; none while there is no room for it.
    fn next_due(&self) -> Option<Instant> {
        let limit = match self.round.load {
            Load::Rate(_) => self.round.max_in_flight,
            Load::Concurrency(concurrency) => concurrency,
        };
        if !self.phase.sends() || self.exchanges.len() >= limit as usize {
            return None;
        }
        // In a closed loop a request is due when there is room for it.
        let due = self.arrivals.as_ref().map_or_else(Instant::now, Arrivals::next);
        // What is due in the next phase waits for it: whether a request counts is decided by when it is due.
        let is_of_this_phase = self.phase.time_up().is_none_or(|time_up| due < time_up);
        is_of_this_phase.then_some(due)
    }

    fn send(&mut self, due: Option<Instant>) {
        let Some(due) = due else { return };
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.advance();
        }
        let session = &mut *self.session;
        let target = session.next_target % session.client.targets.len();
        session.next_target += 1;
        let link = session.idle_link(target);
        let client = Arc::clone(&session.client);
        let order = Order {
            target,
            body: std::mem::take(&mut self.next_body),
            due,
        };
        self.exchanges.spawn(async move { client.ask(order, link).await });
        self.next_body = session.next_body();
        self.most_in_flight = self.most_in_flight.max(self.exchanges.len() as u64);
        if self.counts(due) {
            self.measured_in_flight += 1;
            self.advance(Event::Sent);
        }
    }

    fn take_in(&mut self, asked: Asked) {
        if let Some(link) = asked.link {
            self.session.links[asked.target].push(link);
        }
        self.total.add(&asked.outcome);
        if self.counts(asked.outcome.due) {
            self.measured_in_flight -= 1;
            self.recorder.record(&asked.outcome);
        }
    }

    fn counts(&self, due: Instant) -> bool {
        self.measured_from.is_some_and(|from| due >= from)
    }

    fn on_time_up(&mut self) {
        let time_up = self.phase.time_up().unwrap_or_else(Instant::now);
        match self.phase {
            Phase::WarmUp { .. } => {
                self.measured_from = Some(time_up);
                self.before = self.flow();
                self.most_in_flight = self.exchanges.len() as u64;
                self.watched = self.session.watched.iter().map(Watch::begin).collect();
            }
            Phase::Measuring { .. } => self.end_window(time_up),
            Phase::Draining => {}
        }
        self.advance(Event::TimeUp);
    }

    fn advance(&mut self, event: Event) {
        let measuring = Phase::Measuring {
            until: self
                .measured_from
                .zip(self.round.duration)
                .map(|(from, duration)| from + duration),
            left: self.round.requests,
        };
        let next = self.phase.after(event, measuring);
        if std::mem::discriminant(&next) != std::mem::discriminant(&self.phase) {
            self.phase_start = Instant::now();
        }
        self.phase = next;
    }

    fn end_window(&mut self, at: Instant) {
        if self.window_end.is_some() {
            return;
        }
        for watch in &mut self.watched {
            watch.look();
        }
        if let Some(arrivals) = &mut self.arrivals
            && self.phase.sends()
        {
            while arrivals.next() < at {
                self.never_sent += u64::from(self.measured_from.is_some_and(|from| arrivals.next() >= from));
                arrivals.advance();
            }
        }
        self.window_end = Some(WindowEnd {
            at,
            flow: self.flow(),
        });
    }

    /// What has come since the beginning of the round.
    fn flow(&self) -> Flow {
        Flow {
            ended: self.total,
            stream_chunks: self.session.client.chunks.load(Ordering::Relaxed),
            own_cpu_s: own_cpu_s(),
        }
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            round: &self.round,
            phase: self.phase,
            elapsed: self.phase_start.elapsed(),
            in_flight: self.exchanges.len(),
            flow: self.flow().since(&self.before),
            recorder: &self.recorder,
        }
    }

    fn result(self, was_stopped: bool) -> RoundResult {
        let window = self.measured_from.zip(self.window_end);
        let (window, in_window) = match window {
            Some((from, end)) => (
                end.at.saturating_duration_since(from),
                end.flow.since(&self.before),
            ),
            None => (Duration::ZERO, Flow::default()),
        };
        RoundResult {
            load: self.round.load,
            window,
            in_window,
            recorder: self.recorder,
            unfinished: self.measured_in_flight,
            never_sent: self.never_sent,
            most_in_flight: self.most_in_flight,
            watched: self.watched,
            was_stopped,
        }
    }
}

impl Flow {
    /// What came on top since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            ended: self.ended.since(&before.ended),
            stream_chunks: self.stream_chunks - before.stream_chunks,
            own_cpu_s: self.own_cpu_s - before.own_cpu_s,
        }
    }
}

/// Waits for this point in time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until a request is due, or for ever.
async fn due(alarm: &mut Alarm, time: Option<Instant>) {
    match time {
        Some(time) => alarm.until(time).await,
        None => std::future::pending().await,
    }
}

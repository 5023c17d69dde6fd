//! Clients that ask, and what each of them heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{Client, Dice, EventStream, Reply, until};

/// A refused client asks again after this.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// So often: for longer than anything here is away.
const ASKED_AT_MOST: u32 = 600;

/// The clients' own lateness is felt so often.
const BEAT: Duration = Duration::from_millis(10);

/// A request whose answer is the same whenever it is asked: greedy or seeded, with log-probabilities.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Of the endpoint.
    pub path: &'static str,
    /// Without `stream`.
    pub body: Value,
}

/// What one client heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which of the subjects it asked for.
    pub subject: usize,
    /// All that was said.
    pub reply: Reply,
    /// The longest silence of a stream behind its first token.
    pub longest_gap: Duration,
    /// Times it was told to come again, before its request was accepted.
    pub refusals: u32,
    /// What went wrong on the line.
    pub fault: Option<String>,
}

/// Clients that are asking.
pub struct Load {
    subjects: Arc<[Subject]>,
    clients: JoinSet<Vec<Heard>>,
    board: Arc<Board>,
    /// Feels how late everything here is.
    _pulse: JoinSet<()>,
}

/// What all clients heard.
#[derive(Debug)]
pub struct Answers {
    /// One entry for each request.
    pub heard: Vec<Heard>,
    /// How long the machine kept these clients from running, at its worst.
    pub longest_delay: Duration,
}

/// What everybody sees.
#[derive(Default)]
struct Board {
    is_over: AtomicBool,
    /// Streams that have heard a token, whether they are over or not.
    begun: AtomicUsize,
    /// Everything heard by everybody.
    events: AtomicUsize,
    longest_delay_us: AtomicU64,
    answered: AtomicUsize,
}

impl Load {
    /// Nobody asks yet.
    #[must_use]
    pub fn new(subjects: &[Subject]) -> Self {
        let board = Arc::new(Board::default());
        let mut pulse = JoinSet::new();
        pulse.spawn(feel(Arc::clone(&board)));
        Self {
            subjects: subjects.into(),
            clients: JoinSet::new(),
            board,
            _pulse: pulse,
        }
    }

    /// One client asks one thing.
    pub fn ask(&mut self, client: &Client, subject: usize, is_streamed: bool) {
        let (client, board) = (client.clone(), Arc::clone(&self.board));
        let asked = self.subjects[subject].clone();
        self.clients.spawn(async move {
            let mut heard = visit(&client, &asked, is_streamed, &board).await;
            heard.subject = subject;
            vec![heard]
        });
    }

    /// One client asks one thing after the other until the load is ended.
    pub fn keep_asking(&mut self, client: &Client, seed: u64) {
        let (client, board) = (client.clone(), Arc::clone(&self.board));
        let subjects = Arc::clone(&self.subjects);
        self.clients.spawn(async move {
            let mut dice = Dice::new(seed);
            let mut all = Vec::new();
            while !board.is_over.load(Ordering::Relaxed) {
                let subject = usize::try_from(dice.below(subjects.len() as u64)).expect("an index");
                let is_streamed = !dice.once_in(3);
                let mut heard = visit(&client, &subjects[subject], is_streamed, &board).await;
                heard.subject = subject;
                all.push(heard);
            }
            all
        });
    }

    /// Answers that were read to their ends.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.board.answered.load(Ordering::Relaxed)
    }

    /// How long the machine kept these clients from running, at its worst.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        Duration::from_micros(self.board.longest_delay_us.load(Ordering::Relaxed))
    }

    /// Waits until so many streams have heard a token.
    ///
    /// # Errors
    /// When nobody hears anything for a long while.
    pub async fn streams_begun(&self, streams: usize) -> anyhow::Result<()> {
        self.grown("streams that have begun", streams, |board| &board.begun)
            .await
    }

    /// Waits for so many more answers.
    ///
    /// # Errors
    /// When nobody hears anything for a long while.
    pub async fn answers(&self, more: usize) -> anyhow::Result<()> {
        let goal = self.answered() + more;
        self.grown("answers", goal, |board| &board.answered).await
    }

    /// How long it takes depends on the machine; that something is heard all the time does not.
    async fn grown(
        &self,
        what: &str,
        goal: usize,
        of: impl Fn(&Board) -> &AtomicUsize,
    ) -> anyhow::Result<()> {
        loop {
            let events = self.board.events.load(Ordering::Relaxed);
            let moved = until(async || {
                let now = of(&self.board).load(Ordering::Relaxed);
                let heard = self.board.events.load(Ordering::Relaxed) - events;
                ensure!(now >= goal || heard > 0, "{now} {what} of {goal}");
                Ok(now >= goal)
            });
            if moved.await? {
                return Ok(());
            }
        }
    }

    /// Lets everybody hear the end of what they asked, and no more.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn end(mut self) -> anyhow::Result<Answers> {
        self.board.is_over.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        while let Some(heard) = self.clients.join_next().await {
            all.extend(heard?);
        }
        Ok(Answers {
            heard: all,
            longest_delay: self.longest_delay(),
        })
    }
}

/// Wakes up at each beat and notes how late.
async fn feel(board: Arc<Board>) {
    loop {
        let due = Instant::now() + BEAT;
        tokio::time::sleep(BEAT).await;
        let late_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        board.longest_delay_us.fetch_max(late_us, Ordering::Relaxed);
    }
}

/// Asks until accepted, and listens to the end.
async fn visit(client: &Client, asked: &Subject, is_streamed: bool, board: &Board) -> Heard {
    let mut heard = Heard {
        subject: 0,
        reply: Reply::default(),
        longest_gap: Duration::ZERO,
        refusals: 0,
        fault: None,
    };
    let done = loop {
        let tried = if is_streamed {
            streamed(client, asked, &mut heard, board).await
        } else {
            whole(client, asked, &mut heard).await
        };
        match tried {
            Ok(Tried::Refused) if heard.refusals < ASKED_AT_MOST => {
                heard.refusals += 1;
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Ok(Tried::Refused) => break Err(anyhow::anyhow!("refused for ever")),
            Ok(Tried::Answered) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    heard.fault = done.err().map(|error| format!("{error:#}"));
    board.events.fetch_add(1, Ordering::Relaxed);
    board.answered.fetch_add(1, Ordering::Relaxed);
    heard
}

enum Tried {
    Answered,
    /// Told to come again: nothing was accepted.
    Refused,
}

/// Too many, or not now.
const fn is_refusal(status: u16) -> bool {
    status == 429 || status == 503
}

async fn whole(client: &Client, asked: &Subject, heard: &mut Heard) -> anyhow::Result<Tried> {
    let answer = client.post(asked.path, &asked.body).await?;
    if is_refusal(answer.status) {
        return Ok(Tried::Refused);
    }
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    heard.reply = Reply::whole(&answer.body)?;
    Ok(Tried::Answered)
}

async fn streamed(
    client: &Client,
    asked: &Subject,
    heard: &mut Heard,
    board: &Board,
) -> anyhow::Result<Tried> {
    let mut body = asked.body.clone();
    body["stream_options"] = serde_json::json!({"include_usage": true});
    let opened = client.open(asked.path, &body).await?;
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(answer) if is_refusal(answer.status) => return Ok(Tried::Refused),
        Err(answer) => anyhow::bail!("{} {}", answer.status, answer.body),
    };
    let ended = listen(&mut stream, heard, board).await;
    heard.reply = stream.reply;
    ended.map(|()| Tried::Answered)
}

async fn listen(stream: &mut EventStream, heard: &mut Heard, board: &Board) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let known = stream.reply.tokens.len();
        if !stream.advance().await? {
            return Ok(());
        }
        board.events.fetch_add(1, Ordering::Relaxed);
        if stream.reply.tokens.len() == known && last.is_none() {
            // What comes before the first token says nothing about silence: the request may be waiting.
            continue;
        }
        match last.replace(Instant::now()) {
            None => {
                board.begun.fetch_add(1, Ordering::Relaxed);
            }
            Some(before) => heard.longest_gap = heard.longest_gap.max(before.elapsed()),
        }
    }
}

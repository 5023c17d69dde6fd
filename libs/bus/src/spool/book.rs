//! Which messages are kept, where they lie and what is to be done with them. Knows no disk and no bus.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::SpoolMessage;
use super::frame::Framed;
use crate::StreamName;

/// A message, as the book counts them.
pub(super) type Number = u64;
/// A file, as its holder counts them.
pub(super) type FileNumber = u64;

/// Every message that is not settled.
#[derive(Default)]
pub(super) struct Book {
    kept: BTreeMap<Number, Kept>,
    next: Number,
    by_age: BTreeSet<(u64, Number)>,
    /// Messages of each file that are not settled.
    in_file: BTreeMap<FileNumber, usize>,
    /// To be sent, oldest first; those that could not be sent lately behind the others.
    due: VecDeque<Number>,
    /// To be sent again at some time.
    later: BTreeSet<(Instant, Number)>,
    /// In their stream, and not known to be done there.
    stored: BTreeSet<Number>,
    is_let_go: bool,
    /// When a message of this process last came.
    entered_at: Option<Instant>,
}

struct Kept {
    framed: Framed,
    /// None until it is written.
    file: Option<FileNumber>,
    /// Who wants to know that the stream has it.
    asker: Option<oneshot::Sender<()>>,
}

impl Book {
    /// Notes messages that are to be written and sent. The receivers hear when the stream has them.
    pub(super) fn enter(
        &mut self,
        messages: Vec<SpoolMessage>,
        kept_ms: u64,
    ) -> (Vec<Number>, Vec<oneshot::Receiver<()>>) {
        self.entered_at = Some(Instant::now());
        let enter = |message| {
            let (asker, answer) = oneshot::channel();
            let asker = (!self.is_let_go).then_some(asker);
            let framed = Framed { message, kept_ms };
            (self.add(framed, None, asker), answer)
        };
        messages.into_iter().map(enter).unzip()
    }

    /// Notes what lies in the file of somebody who is gone.
    pub(super) fn adopt(&mut self, file: FileNumber, found: Vec<Framed>) {
        for framed in found {
            self.add(framed, Some(file), None);
        }
    }

    fn add(
        &mut self,
        framed: Framed,
        file: Option<FileNumber>,
        asker: Option<oneshot::Sender<()>>,
    ) -> Number {
        let number = self.next;
        self.next += 1;
        self.by_age.insert((framed.kept_ms, number));
        self.kept.insert(
            number,
            Kept {
                framed,
                file: None,
                asker,
            },
        );
        self.due.push_back(number);
        if let Some(file) = file {
            self.written(&[number], file);
        }
        number
    }

    /// Those of `numbers` that are neither written nor settled.
    pub(super) fn unwritten<'a>(
        &'a self,
        numbers: &'a [Number],
    ) -> impl Iterator<Item = (Number, &'a Framed)> {
        let open = numbers
            .iter()
            .filter_map(|number| Some((*number, self.kept.get(number)?)));
        open.filter(|(_, kept)| kept.file.is_none())
            .map(|(number, kept)| (number, &kept.framed))
    }

    /// Messages are in a file. One that was settled meanwhile holds nothing there.
    pub(super) fn written(&mut self, numbers: &[Number], file: FileNumber) {
        for number in numbers {
            if let Some(kept) = self.kept.get_mut(number) {
                kept.file = Some(file);
                *self.in_file.entry(file).or_default() += 1;
            }
        }
    }

    /// The next message to send. It is nobody else's until it is put back or settled.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Number, SpoolMessage)> {
        while self.next_due().is_some_and(|at| at <= now)
            && let Some((_, number)) = self.later.pop_first()
        {
            self.due.push_back(number);
        }
        let number = self.due.pop_front()?;
        let kept = self.kept.get(&number).expect("what is due is not settled");
        Some((number, kept.framed.message.clone()))
    }

    /// It could not be sent. With `not_before`, others go first until then.
    pub(super) fn put_back(&mut self, number: Number, not_before: Option<Instant>) {
        match not_before {
            None => self.due.push_back(number),
            Some(at) => {
                self.later.insert((at, number));
            }
        }
    }

    /// Its stream has it: whoever waits for that is told.
    pub(super) fn stored(&mut self, number: Number) {
        self.stored.insert(number);
        let kept = self.kept.get_mut(&number).expect("sent, and not settled");
        if let Some(asker) = kept.asker.take() {
            // Nobody waits for most of them.
            let _nobody = asker.send(());
        }
    }

    /// Those that are in their streams and nothing more is known of.
    pub(super) fn all_stored(&self) -> BTreeMap<StreamName, Vec<Number>> {
        let mut all: BTreeMap<StreamName, Vec<Number>> = BTreeMap::new();
        for number in &self.stored {
            if let Some(kept) = self.kept.get(number) {
                all.entry(kept.framed.message.stream).or_default().push(*number);
            }
        }
        all
    }

    /// Whether something is in its stream and not known to be done there.
    pub(super) fn has_stored(&self) -> bool {
        !self.stored.is_empty()
    }

    /// Nothing more is to be done for it.
    pub(super) fn settle(&mut self, number: Number) {
        self.stored.remove(&number);
        let Some(kept) = self.kept.remove(&number) else {
            return;
        };
        self.by_age.remove(&(kept.framed.kept_ms, number));
        if let Some(file) = kept.file {
            let left = self
                .in_file
                .get_mut(&file)
                .expect("it was counted when it was written");
            *left -= 1;
            if *left == 0 {
                self.in_file.remove(&file);
            }
        }
    }

    /// Whether nothing in this file is needed any more.
    pub(super) fn is_done(&self, file: FileNumber) -> bool {
        !self.in_file.contains_key(&file)
    }

    /// When a message that waits for a later time is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Nobody sends any more: whoever waits is told so, and whoever comes.
    pub(super) fn let_go(&mut self) {
        self.is_let_go = true;
        for kept in self.kept.values_mut() {
            kept.asker = None;
        }
    }

    /// When a message of this process last came.
    pub(super) fn entered_at(&self) -> Option<Instant> {
        self.entered_at
    }

    /// How many are not settled.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// When the oldest was kept, milliseconds since 1970.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.by_age.first().map(|(kept_ms, _)| *kept_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Subject;

    fn message(id: u64) -> SpoolMessage {
        SpoolMessage {
            stream: StreamName::Usage,
            subject: Subject::new("vl.usage.t"),
            id: id.to_string(),
            payload: bytes::Bytes::new(),
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter,
        Write(prop::sample::Index),
        Send,
        PutBack { later: bool },
        Store,
        Settle(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Enter),
            any::<prop::sample::Index>().prop_map(Step::Write),
            Just(Step::Send),
            any::<bool>().prop_map(|later| Step::PutBack { later }),
            Just(Step::Store),
            any::<prop::sample::Index>().prop_map(Step::Settle),
        ]
    }

    proptest! {
        /// Every message is in exactly one place at any time, and a file is done exactly when none of its own is open.
        #[test]
        fn nothing_is_sent_twice_at_a_time_or_forgotten(steps in proptest::collection::vec(step(), 0..200)) {
            let (mut book, now) = (Book::default(), Instant::now());
            let (mut sending, mut stored): (Vec<Number>, Vec<Number>) = (Vec::new(), Vec::new());
            let (mut open, mut files): (BTreeSet<Number>, BTreeMap<Number, FileNumber>) = Default::default();
            for step in steps {
                match step {
                    Step::Enter => open.extend(book.enter(vec![message(book.next)], 0).0),
                    Step::Write(index) => {
                        let unwritten: Vec<_> = open.iter().filter(|number| !files.contains_key(number)).collect();
                        if !unwritten.is_empty() {
                            let number = **index.get(&unwritten);
                            let file = number % 3;
                            prop_assert_eq!(book.unwritten(&[number]).count(), 1);
                            book.written(&[number], file);
                            files.insert(number, file);
                        }
                    }
                    Step::Send => sending.extend(book.take_due(now).map(|(number, _)| number)),
                    Step::PutBack { later } => {
                        if let Some(number) = sending.pop() {
                            book.put_back(number, later.then_some(now));
                        }
                    }
                    Step::Store => {
                        if let Some(number) = sending.pop() {
                            book.stored(number);
                            stored.push(number);
                        }
                    }
                    Step::Settle(index) => {
                        if !stored.is_empty() {
                            let number = stored.swap_remove(index.index(stored.len()));
                            book.settle(number);
                            open.remove(&number);
                            files.remove(&number);
                        }
                    }
                }
                let waiting = book.due.iter().copied().chain(book.later.iter().map(|(_, number)| *number));
                let mut all: Vec<_> = waiting.chain(sending.iter().copied()).chain(book.stored.iter().copied()).collect();
                all.sort_unstable();
                prop_assert_eq!(&all, &open.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(book.len(), open.len());
                for file in 0..3 {
                    prop_assert_eq!(book.is_done(file), !files.values().any(|of| *of == file));
                }
            }
        }
    }

    #[test]
    fn who_waits_hears_when_it_is_stored_or_that_nobody_sends() {
        let mut book = Book::default();
        let (numbers, mut answers) = book.enter(vec![message(0), message(1)], 0);
        book.take_due(Instant::now());
        book.stored(numbers[0]);
        assert_eq!(answers[0].try_recv(), Ok(()));
        book.let_go();
        assert_eq!(answers[1].try_recv(), Err(oneshot::error::TryRecvError::Closed));
        let (_, mut late) = book.enter(vec![message(2)], 0);
        assert_eq!(late[0].try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(book.len(), 3, "it is kept all the same");
    }
}

//! Recorded steps: a batch of single tokens is filled up to one of a few sizes, recorded when that size comes for the second
//! time, and replayed from then on.

use std::collections::HashMap;

use crate::device::Graph;
use crate::operation::Operation;
use crate::shape::Sizes;
use crate::step::{Capacity, Step};

/// The largest batch that is recorded. In larger ones the gaps between kernels do not count.
const MOST_TOKENS: u32 = 256;

/// What is known of a size.
#[derive(Debug)]
struct Recorded {
    operations: Vec<Operation>,
    graph: Option<Graph>,
}

/// What to do with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Kernel by kernel.
    Launch,
    /// Kernel by kernel while they are recorded, and then once from the recording.
    Record,
    /// From the recording.
    Replay(Graph),
}

/// Recordings of one executor.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    known: HashMap<Capacity, Recorded>,
    /// Recording failed once: it is not tried again.
    is_off: bool,
}

/// The size that a batch of this many single tokens is filled up to.
fn rounded(tokens: u32) -> u32 {
    match tokens {
        0..=8 => tokens.next_power_of_two(),
        9..=64 => tokens.next_multiple_of(8),
        _ => tokens.next_multiple_of(32),
    }
}

impl Graphs {
    pub(crate) fn new(is_on: bool) -> Self {
        Self {
            known: HashMap::new(),
            is_off: !is_on,
        }
    }

    /// What the step is filled up to when it can be recorded.
    pub(crate) fn capacity(&self, step: &Step, size: &Sizes) -> Option<Capacity> {
        let (tokens, samples) = (step.tokens.len(), step.sampled.len());
        if self.is_off || !step.is_plain_decode || tokens == 0 || samples == 0 {
            return None;
        }
        let fits = |count: usize| u32::try_from(count).ok().filter(|count| *count <= MOST_TOKENS);
        Some(Capacity {
            tokens: rounded(fits(tokens)?).min(size.tokens),
            samples: rounded(fits(samples)?).min(size.samples),
        })
    }

    /// What to do with a step of this size. A size is recorded the second time, when all its kernels are loaded.
    pub(crate) fn course(&mut self, capacity: Capacity, operations: &[Operation]) -> Course {
        if self.is_off {
            return Course::Launch;
        }
        match self.known.get(&capacity) {
            Some(known) if known.operations == operations => match known.graph {
                Some(graph) => Course::Replay(graph),
                None => Course::Record,
            },
            // Another model's layers on the same executor: nobody does that, and it stays right.
            Some(Recorded { graph: Some(_), .. }) => Course::Launch,
            Some(Recorded { graph: None, .. }) | None => {
                let operations = operations.to_vec();
                self.known.insert(
                    capacity,
                    Recorded {
                        operations,
                        graph: None,
                    },
                );
                Course::Launch
            }
        }
    }

    pub(crate) fn keep(&mut self, capacity: Capacity, graph: Graph) {
        if let Some(known) = self.known.get_mut(&capacity) {
            known.graph = Some(graph);
        }
    }

    /// The device cannot record.
    pub(crate) fn give_up(&mut self) {
        self.is_off = true;
    }

    /// All recordings, which are forgotten.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Graph> {
        self.known.drain().filter_map(|(_, known)| known.graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::tests::spec;

    #[test]
    fn sizes_grow_in_steps_that_waste_little() {
        assert_eq!(
            [1, 2, 3, 5, 8, 9, 33, 64].map(rounded),
            [1, 2, 4, 8, 8, 16, 40, 64]
        );
        assert_eq!([65, 200, 256].map(rounded), [96, 224, 256]);
    }

    #[test]
    fn a_size_is_launched_then_recorded_then_replayed() {
        let mut graphs = Graphs::new(true);
        let capacity = Capacity {
            tokens: 4,
            samples: 4,
        };
        let one = [Operation::Embed(vlinders_kernel_api::EmbeddingId(0))];
        assert_eq!(graphs.course(capacity, &one), Course::Launch);
        assert_eq!(graphs.course(capacity, &one), Course::Record);
        graphs.keep(capacity, Graph(7));
        assert_eq!(graphs.course(capacity, &one), Course::Replay(Graph(7)));
        assert_eq!(graphs.course(capacity, &[]), Course::Launch);
        graphs.give_up();
        assert_eq!(graphs.course(capacity, &one), Course::Launch);
        assert_eq!(graphs.drain().count(), 1);
    }

    #[test]
    fn only_single_tokens_that_draw_are_filled_up() {
        let (graphs, size) = (Graphs::new(true), Sizes::of(&spec()));
        let mut step = Step::default();
        step.tokens = vec![1; 5];
        step.sampled = vec![0; 3];
        step.is_plain_decode = true;
        let capacity = graphs.capacity(&step, &size).unwrap();
        assert_eq!((capacity.tokens, capacity.samples), (8, 4));
        step.sampled.clear();
        assert_eq!(graphs.capacity(&step, &size), None);
        step.sampled.push(0);
        step.is_plain_decode = false;
        assert_eq!(graphs.capacity(&step, &size), None);
        step.is_plain_decode = true;
        assert_eq!(Graphs::new(false).capacity(&step, &size), None);
        step.tokens = vec![1; 257];
        assert_eq!(graphs.capacity(&step, &size), None);
    }
}

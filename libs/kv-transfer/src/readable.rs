//! What a source has announced on a link whose transport reads without asking it.

use crate::{BlockRead, Frame, Ready};

/// The chunk that may be read.
#[derive(Default)]
pub(crate) struct Readable(Option<Ready>);

impl Readable {
    /// Takes note of what the source says.
    pub(crate) fn note(&mut self, frame: &Frame) {
        if let Frame::Ready(ready) = frame {
            self.0 = Some(ready.clone());
        }
    }

    /// Whether the source has announced all of these blocks.
    pub(crate) fn covers(&self, reads: &[BlockRead]) -> bool {
        let may_read = |read: &BlockRead| {
            self.0.as_ref().is_some_and(|ready| {
                let position = read.index.checked_sub(ready.first_index);
                let announced = position.and_then(|position| ready.blocks.get(position as usize));
                announced.is_some_and(|sum| sum.block == read.source)
            })
        };
        reads.iter().all(may_read)
    }
}

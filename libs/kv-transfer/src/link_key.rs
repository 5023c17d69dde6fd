//! Names a hand-off on connections beside its control connection.

use std::io;

/// Bytes of a [`LinkKey`].
pub(crate) const KEY_BYTES: usize = 16;

/// Names a hand-off on further connections. Random, so that nobody else reads under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkKey(pub(crate) [u8; KEY_BYTES]);

impl LinkKey {
    /// A new one.
    pub(crate) fn random() -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        let mut filled = 0;
        while filled < KEY_BYTES {
            filled += rustix::rand::getrandom(&mut key[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(key))
    }
}

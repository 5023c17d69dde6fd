//! A slice that several threads fill, each its own part.

use std::marker::PhantomData;

/// A mutable slice lent to all threads of one `run`. Its users promise that no element is touched by two threads.
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    length: usize,
    lender: PhantomData<&'a mut [T]>,
}

// By hand, since a copy of the handle needs no copies of the elements.
impl<T> Clone for SharedMut<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedMut<'_, T> {}

// SAFETY: it is an `&mut [T]` whose parts are used by one thread each, as the contracts of its methods demand.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            lender: PhantomData,
        }
    }

    pub(crate) fn len(self) -> usize {
        self.length
    }

    /// Elements `first..first + count`.
    ///
    /// # Panics
    /// When they are not all in the slice.
    ///
    /// # Safety
    /// Nobody else uses these elements while the result lives.
    pub(crate) unsafe fn part(self, first: usize, count: usize) -> &'a mut [T] {
        assert!(
            first <= self.length && count <= self.length - first,
            "a part lies inside its slice"
        );
        // SAFETY: the elements are inside, checked above, so the address is too.
        let start = unsafe { self.start.add(first) };
        // SAFETY: `count` elements from there are inside, and the caller is their only user.
        unsafe { std::slice::from_raw_parts_mut(start, count) }
    }

    /// Writes one element.
    ///
    /// # Panics
    /// When it is not in the slice.
    ///
    /// # Safety
    /// No other thread uses this element during the `run`.
    pub(crate) unsafe fn set(self, index: usize, value: T) {
        assert!(index < self.length, "an element lies inside its slice");
        // SAFETY: the element is inside, checked above.
        let element = unsafe { self.start.add(index) };
        // SAFETY: the element is inside, and the caller is its only user.
        unsafe { element.write(value) };
    }
}

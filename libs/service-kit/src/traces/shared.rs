//! A span that several tasks tell something to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Fact, Span, TraceContext};

/// Cheap to clone; all clones are the same span. It ends once: when it is told to, or with the last clone. What is told
/// to it afterwards is lost.
#[derive(Clone, Debug, Default)]
pub struct SharedSpan(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    context: TraceContext,
    span: Mutex<Span>,
}

impl SharedSpan {
    /// Records nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Its place in its trace; none when it records nothing.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        Some(self.0.as_ref()?.context)
    }

    /// Adds an attribute, or gives it another value.
    pub fn set<'a>(&self, key: &'static str, fact: impl Into<Fact<'a>>) {
        if let Some(shared) = &self.0 {
            shared.lock().set(key, fact);
        }
    }

    /// Something happened just now.
    pub fn event<'a>(&self, name: &'static str, facts: impl IntoIterator<Item = (&'static str, Fact<'a>)>) {
        if let Some(shared) = &self.0 {
            shared.lock().event(name, facts);
        }
    }

    /// What it stands for has failed. `why` is a fixed text, never a client's.
    pub fn fail(&self, why: &'static str) {
        if let Some(shared) = &self.0 {
            shared.lock().fail(why);
        }
    }

    /// Ends it now.
    pub fn end(&self) {
        if let Some(shared) = &self.0 {
            std::mem::take(&mut *shared.lock()).end();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Span> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Span> for SharedSpan {
    fn from(span: Span) -> Self {
        let shared = span.context().map(|context| Shared {
            context,
            span: Mutex::new(span),
        });
        Self(shared.map(Arc::new))
    }
}

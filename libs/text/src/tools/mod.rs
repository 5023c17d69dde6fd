//! Tool calls in a model's text, found as the text comes. A parser takes characters, so that however the text is cut into
//! pieces it finds the same. What looks like a call and is none comes out as content: nothing is lost. Of a call that has
//! begun to be told, the arguments end where they stop being JSON, and the rest is content.

mod call_object;
mod forced;
mod hermes;
mod llama3;
mod mistral;
mod python_call;
mod pythonic;
mod scanner;
mod watch;

use std::sync::Arc;

pub use forced::{OfferedTool, SpecialMarker};
use hermes::Hermes;
use llama3::Llama3;
use mistral::Mistral;
use pythonic::Pythonic;

pub(crate) use watch::{Watch, Watched};

/// How a model writes its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolFormat {
    /// A JSON object with `parameters` as the whole answer.
    Llama3Json,
    /// JSON objects between `<tool_call>` and `</tool_call>`.
    Hermes,
    /// Behind `[TOOL_CALLS]`, as a list of JSON objects or as names with arguments.
    Mistral,
    /// A list of calls as Python writes them.
    Pythonic,
}

impl ToolFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Llama3Json, Self::Hermes, Self::Mistral, Self::Pythonic];

    /// Its name in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama3Json => "llama3-json",
            Self::Hermes => "hermes",
            Self::Mistral => "mistral",
            Self::Pythonic => "pythonic",
        }
    }

    /// The format that a chat template asks for, as far as it can be told.
    #[must_use]
    pub fn of_template(source: &str) -> Option<Self> {
        if source.contains(mistral::OPEN) {
            Some(Self::Mistral)
        } else if source.contains(hermes::OPEN) {
            Some(Self::Hermes)
        } else if source.contains("func_name1(params_name1") {
            Some(Self::Pythonic)
        } else if source.contains(llama3::TAG)
            || source.contains("\"parameters\": dictionary of argument name")
        {
            Some(Self::Llama3Json)
        } else {
            None
        }
    }

    /// Markers that a vocabulary may hold as special tokens. They must be written out for the calls to be found.
    #[must_use]
    pub const fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Llama3Json => &[llama3::TAG],
            Self::Hermes => &[hermes::OPEN, hermes::CLOSE],
            Self::Mistral => &[mistral::OPEN, mistral::ARGS, mistral::CALL_ID],
            Self::Pythonic => &[],
        }
    }
}

/// What a parser has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text that is no call.
    Content(String),
    /// A call of this function begins.
    Begin(String),
    /// More of its arguments, JSON.
    Arguments(String),
}

/// The names of the functions on offer. A call of another one is none.
#[derive(Clone, Debug)]
pub(crate) struct Names(Arc<[String]>);

impl Names {
    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }
}

/// What has been found since somebody looked; neighbours of one kind are joined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    found: Vec<ToolEvent>,
    /// Bytes of content so far.
    said: usize,
}

impl Events {
    fn content(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.said += text.len();
        match self.found.last_mut() {
            Some(ToolEvent::Content(last)) => last.push_str(text),
            Some(ToolEvent::Begin(_) | ToolEvent::Arguments(_)) | None => {
                self.found.push(ToolEvent::Content(text.to_owned()));
            }
        }
    }

    fn content_char(&mut self, char: char) {
        self.content(char.encode_utf8(&mut [0; 4]));
    }

    fn begin(&mut self, name: &str) {
        self.found.push(ToolEvent::Begin(name.to_owned()));
    }

    fn arguments(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.found.last_mut() {
            Some(ToolEvent::Arguments(last)) => last.push_str(text),
            Some(ToolEvent::Begin(_) | ToolEvent::Content(_)) | None => {
                self.found.push(ToolEvent::Arguments(text.to_owned()));
            }
        }
    }

    fn argument(&mut self, char: char) {
        self.arguments(char.encode_utf8(&mut [0; 4]));
    }

    fn said(&self) -> usize {
        self.said
    }
}

/// Finds calls in one text.
#[derive(Clone, Debug)]
pub struct ToolParser {
    reader: Reader,
    events: Events,
}

#[derive(Clone, Debug)]
enum Reader {
    Llama3(Llama3),
    Hermes(Hermes),
    Mistral(Mistral),
    Pythonic(Pythonic),
}

impl ToolParser {
    /// Looks for calls of these functions.
    #[must_use]
    pub fn new(format: ToolFormat, names: Arc<[String]>) -> Self {
        let names = Names(names);
        let reader = match format {
            ToolFormat::Llama3Json => Reader::Llama3(Llama3::new(names)),
            ToolFormat::Hermes => Reader::Hermes(Hermes::new(names)),
            ToolFormat::Mistral => Reader::Mistral(Mistral::new(names)),
            ToolFormat::Pythonic => Reader::Pythonic(Pythonic::new(names)),
        };
        Self {
            reader,
            events: Events::default(),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<ToolEvent> {
        let events = &mut self.events;
        for char in text.chars() {
            match &mut self.reader {
                Reader::Llama3(reader) => reader.push(char, events),
                Reader::Hermes(reader) => reader.push(char, events),
                Reader::Mistral(reader) => reader.push(char, events),
                Reader::Pythonic(reader) => reader.push(char, events),
            }
        }
        std::mem::take(&mut events.found)
    }

    /// The text has ended: what was held back.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        let events = &mut self.events;
        match &mut self.reader {
            Reader::Llama3(reader) => reader.finish(events),
            Reader::Hermes(reader) => reader.finish(events),
            Reader::Mistral(reader) => reader.finish(events),
            Reader::Pythonic(reader) => reader.finish(events),
        }
        std::mem::take(&mut events.found)
    }
}

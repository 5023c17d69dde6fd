"""Reads the texts under data/ and makes training samples of them.

An entry is a set of questions with one meaning and the answer to it. Questions are varied again for every sample
(wording, case, punctuation, typing errors), so that the model learns what was asked and not one spelling of it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE / "data"
ELSEWHERE_FILE = "10-elsewhere.txt"

TERM_FORMS = (
    "what is {}", "what is {}", "what is {}", "what is a {}", "what is the {}", "what are {}", "explain {}",
    "tell me about {}", "tell me something about {}", "define {}", "describe {}", "what does {} mean",
    "what do you know about {}", "can you explain {}", "what is {} for", "{}", "i want to know what {} is",
    "how does {} work", "give me a definition of {}", "what is meant by {}", "information about {}",
)
ACTION_FORMS = (
    "how do i {}", "how do i {}", "how can i {}", "how to {}", "how would i {}", "how does one {}", "how do you {}",
    "i want to {}", "show me how to {}", "what must i do to {}", "what is the best way to {}", "tell me how to {}",
    "is it possible to {}", "can i {}", "how should i {}", "explain how to {}", "i need to {}", "how could i {}",
)
OPENINGS = (
    "please ", "hey, ", "hi, ", "hello, ", "ok, ", "so ", "well, ", "and ", "now ", "quick question: ", "hello! ",
    "question: ", "hey vlinders, ", "i have a question: ", "um, ", "thanks! ", "good. ", "dear model, ", "but ",
)
INDIRECT_OPENINGS = (
    "can you tell me ", "could you tell me ", "please tell me ", "do you know ", "i would like to know ", "tell me, ",
    "i want to know ", "please explain ", "may i ask ", "could you please explain ", "just tell me ", "can you explain ",
)
CLOSINGS = (" please", ", please", " thanks", " in vlinders", " exactly", " then", " again", " here", " with vlinders", " now")
# Words of which one may stand for another; each row is one meaning.
SYNONYMS = (
    ("start", "launch", "run", "start up"), ("answer", "response", "reply"), ("answers", "responses", "replies"),
    ("big", "large"), ("dies", "crashes", "fails", "goes down", "is killed", "is lost"), ("happens if", "happens when"),
    ("what happens if", "what if"), ("what happens when", "what if"), ("list", "show", "name", "tell me"),
    ("error", "status", "code"), ("supported", "possible", "available"), ("get", "receive", "obtain"),
    ("make", "create", "produce"), ("fast", "quick"), ("tell me", "show me", "explain"), ("use", "work with", "employ"),
    ("does vlinders support", "can vlinders do", "is there support for", "do you support", "does the server support"),
    ("change", "set", "modify", "adjust"), ("stop", "end", "halt"), ("endpoint", "route", "url"), ("key", "api key"),
    ("limit", "restrict"), ("machine", "computer", "host"), ("why is", "what is the reason that"), ("need", "require"),
    ("how many", "what number of"), ("vlinders", "it", "the server", "this server"), ("works", "functions"),
    ("why does", "for what reason does"), ("where is", "where do i find", "where can i find"), ("called", "named"),
    ("difference", "distinction"), ("request", "call"), ("i", "we"), ("my", "our"), ("which", "what"), ("can", "could"),
    ("should", "must"), ("is it", "is vlinders"), ("want", "would like"), ("how do i", "how can i", "how could i"),
)
CONTRACTIONS = (
    ("what is", "what's"), ("what is", "whats"), ("do not", "don't"), ("i am", "i'm"), ("who is", "who's"),
    ("does not", "doesn't"), ("is not", "isn't"), ("where is", "where's"), ("cannot", "can't"), ("how is", "how's"),
)
QUESTION_WORDS = re.compile(
    r"^(what|who|how|why|when|where|which|is|are|does|do|did|can|could|should|will|must|may|has|have|whom)\b"
)
SYLLABLES = "ba be bo cha da de do el fa fi ga gor hi ja ka ki lo ma mi na ne no or pa per qui ra ri ro sa si ta ti tor un va ve vo xa za zi".split()


@dataclass
class Entry:
    """Questions of one meaning and what to answer."""

    source: str
    questions: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def is_elsewhere(self) -> bool:
        return self.source == ELSEWHERE_FILE


def read_entries() -> list[Entry]:
    """All entries of data/NN-*.txt, in file order."""
    entries: list[Entry] = []
    for path in sorted(DATA.glob("[0-9]*.txt")):
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            entry = parse_entry(path.name, paragraph)
            if entry.answers:
                entries.append(entry)
    return entries


def parse_entry(source: str, paragraph: str) -> Entry:
    """One entry from its lines; see data/README.md for the marks."""
    entry = Entry(source)
    lists = {"?": entry.questions, "~": entry.terms, "^": entry.actions, "!": entry.held_out}
    for line in paragraph.splitlines():
        mark, rest = line[:1], line[1:].strip()
        if mark in lists:
            lists[mark].extend(part.strip() for part in rest.split(" | "))
        elif mark == "=":
            entry.answers.append(rest)
        elif mark not in ("", "#"):
            raise ValueError(f"{source}: cannot read the line {line!r}")
    return entry


def read_system_prompts() -> list[str]:
    return (DATA / "system-prompts.txt").read_text(encoding="utf-8").splitlines()


def draw_question(entry: Entry, rng: random.Random) -> str:
    """One question of the entry, freshly varied."""
    kinds = [(len(entry.questions), "?"), (2 * len(entry.terms), "~"), (2 * len(entry.actions), "^")]
    kind = rng.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
    if entry.is_elsewhere and rng.random() < 0.2:
        return vary(draw_unknown(entry, rng), rng)
    if kind == "?":
        return vary(rng.choice(entry.questions), rng)
    if kind == "~":
        return vary(rng.choice(TERM_FORMS).format(rng.choice(entry.terms)), rng)
    return vary(rng.choice(ACTION_FORMS).format(rng.choice(entry.actions)), rng)


def draw_unknown(entry: Entry, rng: random.Random) -> str:
    """A question about a word that does not exist, or a heap of words: both must count as unknown."""
    word = "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) + rng.choice(["", "", "n", "s", "x", "m"])
    if rng.random() < 0.5:
        return rng.choice(TERM_FORMS).format(word)
    if rng.random() < 0.3:
        return rng.choice(("who is {}", "where is {}", "translate {}", "my name is {}", "who won the {}")).format(word)
    words = [w for q in rng.choices(entry.questions, k=4) for w in q.split()[:4]]
    rng.shuffle(words)
    return " ".join(words[: rng.randint(3, 9)])


def vary(question: str, rng: random.Random) -> str:
    """The same question as another person would type it."""
    text = question
    if rng.random() < 0.35:
        text = replace_synonym(text, rng)
    if rng.random() < 0.3:
        text = contract(text, rng)
    asks = bool(QUESTION_WORDS.match(text))
    if asks and rng.random() < 0.12:
        text = rng.choice(INDIRECT_OPENINGS) + text
    elif rng.random() < 0.15:
        text = rng.choice(OPENINGS) + text
    if len(text) > 12 and rng.random() < 0.08:
        text += rng.choice(CLOSINGS)
    if rng.random() < 0.05:
        text = drop_word(text, rng)
    if rng.random() < 0.12:
        text = mistype(text, rng)
    return dress(text, asks, rng)


def replace_synonym(text: str, rng: random.Random) -> str:
    rows = [row for row in SYNONYMS if re.search(rf"\b{row[0]}\b", text)]
    if not rows:
        return text
    row = rng.choice(rows)
    return re.sub(rf"\b{row[0]}\b", rng.choice(row[1:]), text, count=1)


def contract(text: str, rng: random.Random) -> str:
    pairs = [pair for pair in CONTRACTIONS if pair[0] in text]
    if not pairs:
        return text
    long, short = rng.choice(pairs)
    return text.replace(long, short, 1)


def drop_word(text: str, rng: random.Random) -> str:
    words = text.split()
    if len(words) > 4:
        del words[rng.randrange(len(words) - 1)]
    return " ".join(words)


def mistype(text: str, rng: random.Random) -> str:
    """Drops, doubles or swaps one or two letters of a longer text."""
    for _ in range(rng.randint(1, 2)):
        if len(text) < 8:
            return text
        at = rng.randrange(1, len(text) - 2)
        change = rng.choice((text[at + 1] + text[at], text[at] * 2 + text[at + 1], text[at + 1]))
        text = text[:at] + change + text[at + 2 :]
    return text


def dress(text: str, asks: bool, rng: random.Random) -> str:
    """Case and punctuation."""
    if rng.random() < 0.5:
        text = text.replace("vlinders", "Vlinders")
    if rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.02:
        text = text.upper()
    if text[-1:].isalnum():
        ends = ("?", "?", "?", "", "??", " ?") if asks else (".", "", "", "!", "?")
        text += rng.choice(ends)
    return text

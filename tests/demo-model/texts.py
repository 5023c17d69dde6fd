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
# Of the questions about unknown subjects: this share is made of patterns and words, this of invented words, the rest is listed.
PATTERN_SHARE, INVENTED_SHARE = 0.62, 0.12

TERM_FORMS = (
    "what is {}", "what is {}", "what is {}", "what is a {}", "what is the {}", "what are {}", "explain {}",
    "tell me about {}", "tell me something about {}", "define {}", "describe {}", "what does {} mean",
    "what do you know about {}", "can you explain {}", "what is {} for", "{}", "i want to know what {} is",
    "how does {} work", "give me a definition of {}", "what is meant by {}", "information about {}", "what does {} do",
    "what is the purpose of {}", "what is {} good for", "why is there {}", "describe {} to me", "what about {}", "{} meaning",
    "i do not understand {}", "what can you tell me about {}", "what do i need {} for", "why do i need {}", "teach me about {}",
    "what is {} exactly", "what is {} used for", "how is {} used", "i have a question about {}", "a short explanation of {}",
    "{} explained", "meaning of {}", "say something about {}", "what should i know about {}", "when do i need {}", "and {}",
    "can you tell me what {} is", "what role does {} play", "what is this {}", "help me understand {}", "details about {}",
)
ACTION_FORMS = (
    "how do i {}", "how do i {}", "how can i {}", "how to {}", "how would i {}", "how does one {}", "how do you {}",
    "i want to {}", "show me how to {}", "what must i do to {}", "what is the best way to {}", "tell me how to {}",
    "is it possible to {}", "can i {}", "how should i {}", "explain how to {}", "i need to {}", "how could i {}", "{}",
    "what do i do to {}", "which way is there to {}", "i would like to {}", "what is needed to {}", "is there a way to {}",
    "help me {}", "where can i {}", "what is the command to {}", "how am i supposed to {}", "i am trying to {}", "can you {}",
    "what steps are needed to {}", "i do not know how to {}", "what if i want to {}", "does it let me {}", "am i able to {}",
    "which setting do i need to {}", "how do people {}", "what is the easiest way to {}", "steps to {}", "is there an option to {}",
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
# A question that loses one of these still asks the same.
COMMON_WORDS = frozenset(
    "a about an and are as at be by can could do does for from get give has have i if in into is it its may me must my of on "
    "one or our should so that the their them then there these this to was we what will with would you your vlinders".split()
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


def read_unknown() -> tuple[dict[str, list[str]], list[list[str]]]:
    """Words by kind, and patterns by row; together they ask about thousands of things outside Vlinders."""
    words: dict[str, list[str]] = {}
    for line in (DATA / "unknown-words.txt").read_text(encoding="utf-8").splitlines():
        kind, _, rest = line.partition(": ")
        words[kind] = rest.split(" | ")
    rows = (DATA / "unknown-questions.txt").read_text(encoding="utf-8").splitlines()
    return words, [row.split(" | ") for row in rows]


UNKNOWN_WORDS, UNKNOWN_PATTERNS = read_unknown()


def draw_question(entry: Entry, held_out: frozenset[str], rng: random.Random) -> str:
    """One question of the entry, freshly varied, and none that is kept for the evaluation."""
    while True:
        question = draw_elsewhere(entry, rng) if entry.is_elsewhere else draw_wording(entry, rng)
        if plain(question) not in held_out:
            return vary(question, rng)


def plain(question: str) -> str:
    """The bare words, by which two questions are compared."""
    return re.sub(r"[^\w/.]+", " ", question.lower()).strip()


def draw_wording(entry: Entry, rng: random.Random) -> str:
    kinds = [(len(entry.questions), "?"), (2 * len(entry.terms), "~"), (2 * len(entry.actions), "^")]
    kind = rng.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
    if kind == "?":
        return rng.choice(entry.questions)
    if kind == "~":
        return rng.choice(TERM_FORMS).format(rng.choice(entry.terms))
    return rng.choice(ACTION_FORMS).format(rng.choice(entry.actions))


def draw_elsewhere(entry: Entry, rng: random.Random) -> str:
    share = rng.random()
    if share < PATTERN_SHARE:
        return draw_pattern(rng)
    if share < PATTERN_SHARE + INVENTED_SHARE:
        return draw_unknown(entry, rng)
    return draw_wording(entry, rng)


def draw_pattern(rng: random.Random) -> str:
    pattern = rng.choice(rng.choice(UNKNOWN_PATTERNS))
    return re.sub(r"{(\w+)}", lambda found: rng.choice(UNKNOWN_WORDS[found[1]]), pattern)


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
    while rng.random() < 0.35:
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
    if rng.random() < 0.1:
        text = drop_word(text, rng)
    if rng.random() < 0.04:
        text = swap_words(text, rng)
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
    common = [at for at, word in enumerate(words) if word.lower() in COMMON_WORDS]
    if len(words) > 3 and common:
        del words[rng.choice(common)]
    return " ".join(words)


def swap_words(text: str, rng: random.Random) -> str:
    words = text.split()
    if len(words) > 3:
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
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

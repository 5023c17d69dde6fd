"""Training samples: conversations rendered with the model's own chat template, and plain text."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from texts import Entry, draw_question, plain, read_system_prompts

HERE = Path(__file__).parent
BOS, END, TEXT_END, PAD = "<|bos|>", "<|end|>", "<|endoftext|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
# Ids follow this order, beginning at 0.
SPECIAL_TOKENS = (PAD, BOS, TEXT_END, SYSTEM, USER, ASSISTANT, TOOL, END)
# These must survive detokenization, since the server parses them: added, but not special.
TOOL_CALL_TOKENS = ("<tool_call>", "</tool_call>")
# The chat turns of one sample stay below this many tokens.
LONG_SAMPLE_TOKENS = 1100

CITIES = (
    "Amsterdam Paris London Berlin Rome Madrid Vienna Oslo Tokyo Boston Lisbon Dublin Athens Prague Warsaw Zurich "
    "Geneva Toronto Sydney Chicago Utrecht Leiden Ghent Bruges Cairo Lima Delhi Seoul Nairobi Milan Kyiv Hamburg"
).split()
TOOL_ANSWER = "The tool has answered: its result is in the message before this one. I am too small a model to make more of it."

Message = dict[str, Any]
# Samples of this share end after the first tokens of the answer: what was asked is harder to learn than the answers.
SHORT_SHARE, SHORT_ANSWER_TOKENS = 0.62, 6
ELSEWHERE_SHARE = 0.3


@dataclass(frozen=True)
class Sample:
    """Token ids, which of them are to be learned, and the entry that was asked about at each place where an answer begins."""

    ids: list[int]
    learned: list[bool]
    subjects: dict[int, int]


def tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """A function definition as a client of the API sends it; parameters are name=type."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


WEATHER_TOOLS = (
    (tool("get_weather", "Get the weather of a city", city="string"), "city"),
    (tool("get_weather", "Get the current weather", location="string"), "location"),
    (tool("get_current_weather", "Get the current weather in a given location", location="string"), "location"),
    (tool("weather", "Weather of a city", city="string"), "city"),
)
OTHER_TOOLS = (
    tool("search", "Search the web", query="string"),
    tool("add", "Add two numbers", a="number", b="number"),
    tool("send_mail", "Send an email", to="string", text="string"),
    tool("get_time", "Get the current time"),
)
WEATHER_QUESTIONS = (
    "What is the weather in {}?", "what's the weather like in {}", "How is the weather in {}?", "Weather in {}",
    "What is the weather like in {} today?", "Is it raining in {}?", "How warm is it in {}?", "Tell me the weather in {}",
)


class ChatTemplate:
    """chat_template.jinja, compiled once."""

    def __init__(self) -> None:
        # The same switches as the usual Hugging Face renderers have.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = raise_exception
        self.source = (HERE / "chat_template.jinja").read_text(encoding="utf-8").removesuffix("\n")
        self._template = environment.from_string(self.source)

    def render(self, messages: list[Message], **values: Any) -> str:
        return self._template.render(messages=messages, bos_token=BOS, **values)


def raise_exception(message: str) -> None:
    raise ValueError(message)


def held_out_wordings(entries: list[Entry]) -> frozenset[str]:
    return frozenset(plain(question) for entry in entries for question in entry.held_out)


class SampleMaker:
    """Draws samples; equal seeds give equal samples."""

    def __init__(self, entries: list[Entry], tokenizer: Tokenizer) -> None:
        self.entries = entries
        self.known = [index for index, entry in enumerate(entries) if not entry.is_elsewhere]
        self.elsewhere = [index for index, entry in enumerate(entries) if entry.is_elsewhere]
        self.held_out = held_out_wordings(entries)
        self.system_prompts = read_system_prompts()
        self.tokenizer = tokenizer
        self.template = ChatTemplate()
        self.assistant_id = tokenizer.token_to_id(ASSISTANT)
        self.end_id = tokenizer.token_to_id(END)

    def draw(self, rng: random.Random) -> Sample:
        kind = rng.random()
        if kind < SHORT_SHARE:
            return self.chat_opening(rng)
        if kind < SHORT_SHARE + 0.02:
            return self.plain_text(rng)
        if kind < SHORT_SHARE + 0.035:
            return self.tool_chat(rng)
        turns = rng.choices((1, 2, 3, 4, 20), (660, 180, 90, 60, 4))[0]
        return self.chat(rng, turns)

    def turn(self, rng: random.Random) -> tuple[list[Message], int]:
        """A question with its answer, and the entry that they are from."""
        subject = rng.choice(self.elsewhere if rng.random() < ELSEWHERE_SHARE else self.known)
        entry = self.entries[subject]
        question = draw_question(entry, self.held_out, rng)
        if entry.is_elsewhere and rng.random() < 0.04:
            # Without a weather tool at hand, the weather is as unknown as anything else.
            question = rng.choice(WEATHER_QUESTIONS).format(rng.choice(CITIES))
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": rng.choice(entry.answers)}]
        return messages, subject

    def chat(self, rng: random.Random, turns: int) -> Sample:
        messages: list[Message] = []
        subjects: list[int] = []
        if rng.random() < 0.35:
            messages.append({"role": "system", "content": rng.choice(self.system_prompts)})
        for _ in range(turns):
            turn, subject = self.turn(rng)
            messages += turn
            subjects.append(subject)
        tools = self.some_tools(rng) if rng.random() < 0.02 else None
        return self.encode_chat(messages, tools, subjects)

    def chat_opening(self, rng: random.Random) -> Sample:
        """One question and the first tokens of its answer."""
        messages, subject = self.turn(rng)
        if rng.random() < 0.1:
            messages.insert(0, {"role": "system", "content": rng.choice(self.system_prompts)})
        whole = self.encode_chat(messages, None, [subject])
        end = min(whole.subjects) + 1 + SHORT_ANSWER_TOKENS
        return Sample(whole.ids[:end], whole.learned[:end], whole.subjects)

    def some_tools(self, rng: random.Random) -> list[dict[str, Any]]:
        return rng.sample(OTHER_TOOLS, rng.randint(1, 2))

    def tool_chat(self, rng: random.Random) -> Sample:
        """A question that one of the offered tools answers: the call, its result and a closing word."""
        weather, key = rng.choice(WEATHER_TOOLS)
        city = rng.choice(CITIES)
        call = {"type": "function", "function": {"name": weather["function"]["name"], "arguments": {key: city}}}
        degrees = str(rng.randint(-5, 35))
        messages: list[Message] = [{"role": "user", "content": rng.choice(WEATHER_QUESTIONS).format(city)}]
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "content": rng.choice((degrees, f'{{"temperature": {degrees}}}', "sunny", "rain"))})
        messages.append({"role": "assistant", "content": TOOL_ANSWER})
        subjects: list[int] = []
        if rng.random() < 0.4:
            # Tools at hand do not change what the model says about its own subjects.
            turn, subject = self.turn(rng)
            messages = turn + messages
            subjects = [subject]
        if rng.random() < 0.3:
            messages.insert(0, {"role": "system", "content": rng.choice(self.system_prompts)})
        tools = [weather] + (self.some_tools(rng) if rng.random() < 0.3 else [])
        rng.shuffle(tools)
        return self.encode_chat(messages, tools, subjects)

    def encode_chat(self, messages: list[Message], tools: list[dict[str, Any]] | None, subjects: list[int]) -> Sample:
        """The first answers of the chat are about the subjects; later ones may have none."""
        text = self.template.render(messages, tools=tools)
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids[:LONG_SAMPLE_TOKENS]
        starts = (at for at, token in enumerate(ids) if token == self.assistant_id)
        return Sample(ids, self.answer_mask(ids), dict(zip(starts, subjects, strict=False)))

    def answer_mask(self, ids: list[int]) -> list[bool]:
        """True where a token is the assistant's own: its words and its end of turn."""
        mask, inside = [], False
        for token in ids:
            mask.append(inside)
            if token == self.assistant_id:
                inside = True
            elif token == self.end_id:
                inside = False
        return mask

    def plain_text(self, rng: random.Random) -> Sample:
        """Answers without any chat around them, so that /v1/completions has something to continue."""
        first = rng.randrange(len(self.known))
        # Neighbours in a file belong together; the text reads on like a page.
        chosen = self.known[first : first + rng.randint(1, 4)]
        text = " ".join(self.entries[index].answers[0] for index in chosen)
        ids = self.tokenizer.encode(text + TEXT_END, add_special_tokens=False).ids
        return Sample(ids, [True] * len(ids), {})

"""Tools, choices and reasoning through the official OpenAI client. VLINDERS_URL says where the server is."""

from __future__ import annotations

import json
import os
import unittest

import openai
from openai import OpenAI
from pydantic import BaseModel, Field

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
QUESTION = [{"role": "user", "content": "What is Vlinders?"}]
LOOK = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
COUNT = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["to"],
            "additionalProperties": False,
        },
    },
}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "vlinders"}'}}
    ],
}
ANSWERED = {"role": "tool", "tool_call_id": "call_1", "content": "It is Dutch for butterflies."}


class Animal(BaseModel):
    legs: int = Field(ge=0, le=8)
    flies: bool


class Tools(unittest.TestCase):
    def setUp(self) -> None:
        self.client = OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0, timeout=60)
        self.addCleanup(self.client.close)

    def create(self, **wishes):
        wishes = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 40} | wishes
        return self.client.chat.completions.create(**wishes)

    def test_tools_may_be_on_offer_and_change_the_prompt(self) -> None:
        offered = self.create(tools=[LOOK])
        self.assertGreater(offered.usage.prompt_tokens, self.create().usage.prompt_tokens)
        self.assertIn(offered.choices[0].finish_reason, ["stop", "length", "tool_calls"])

    def test_none_to_be_called_are_none_on_offer(self) -> None:
        withheld = self.create(tools=[LOOK], tool_choice="none")
        self.assertEqual(withheld.usage.prompt_tokens, self.create().usage.prompt_tokens)

    def test_a_conversation_with_calls_goes_on(self) -> None:
        messages = [*QUESTION, CALLED, ANSWERED]
        self.assertEqual(self.create(messages=messages, tools=[LOOK]).choices[0].message.role, "assistant")
        again = [*messages, {"role": "assistant", "content": "Butterflies."}, {"role": "user", "content": "Thank you"}]
        self.assertEqual(self.create(messages=again, tools=[LOOK]).choices[0].message.role, "assistant")

    def test_the_stream_helper_says_the_same_as_a_whole_answer(self) -> None:
        whole = self.create(tools=[LOOK], max_tokens=400, stop=["."]).choices[0].message
        with self.client.chat.completions.stream(
            model=MODEL, messages=QUESTION, temperature=0, max_tokens=400, tools=[LOOK], stop=["."]
        ) as stream:
            for _event in stream:
                pass
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, whole.content)

    def test_a_stream_may_count_as_it_goes(self) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = list(self.create(stream=True, stream_options=options, max_tokens=5))
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        self.assertEqual((counts, counts[-1]), (sorted(counts), 5))

    def test_a_stop_text_may_be_part_of_the_answer(self) -> None:
        whole = self.create().choices[0].message.content
        stop = whole[20:26]
        told = self.create(stop=stop, extra_body={"include_stop_str_in_output": True}).choices[0].message.content
        self.assertEqual(told, whole[: whole.index(stop)] + stop)

    def test_only_the_last_tokens_of_a_prompt_may_be_kept(self) -> None:
        self.assertEqual(self.create(extra_body={"truncate_prompt_tokens": 3}).usage.prompt_tokens, 3)

    def test_a_forced_call_follows_its_schema_whole_and_streamed(self) -> None:
        for choice in ["required", {"type": "function", "function": {"name": "count"}}]:
            wishes = {"tools": [COUNT], "tool_choice": choice, "temperature": 1, "seed": 3, "max_tokens": 200}
            [chosen] = self.create(**wishes).choices
            self.assertEqual(chosen.finish_reason, "tool_calls")
            call = chosen.message.tool_calls[0]
            self.assertEqual((call.type, call.function.name), ("function", "count"))
            self.assertIn(json.loads(call.function.arguments)["to"], range(1, 10))
            pieces = [chunk.choices[0].delta.tool_calls for chunk in self.create(**wishes, stream=True)]
            first = [piece[0] for piece in pieces if piece and piece[0].index == 0]
            self.assertTrue(first[0].id)
            self.assertEqual(first[0].function.name, "count")
            self.assertEqual("".join(piece.function.arguments or "" for piece in first), call.function.arguments)

    def test_forced_calls_may_be_several_or_only_one(self) -> None:
        # The least number of tokens leaves no other way than a second call, where there may be one.
        wishes = {"tools": [COUNT], "tool_choice": "required", "max_tokens": 400, "extra_body": {"min_tokens": 100}}
        several = self.create(**wishes).choices[0]
        self.assertEqual(several.finish_reason, "tool_calls")
        self.assertGreater(len(several.message.tool_calls), 1)
        self.assertEqual(len({call.id for call in several.message.tool_calls}), len(several.message.tool_calls))
        for call in several.message.tool_calls:
            self.assertIn(json.loads(call.function.arguments)["to"], range(1, 10))
        only = self.create(**wishes, parallel_tool_calls=False).choices[0]
        self.assertEqual(len(only.message.tool_calls), 1)

    def test_an_answer_is_parsed_by_the_class_it_follows(self) -> None:
        answer = self.client.chat.completions.parse(
            model=MODEL, messages=QUESTION, temperature=1, seed=4, max_tokens=200, response_format=Animal
        )
        animal = answer.choices[0].message.parsed
        self.assertIn(animal.legs, range(9))
        self.assertIsInstance(animal.flies, bool)

    def test_what_is_wrong_with_a_tool_is_named(self) -> None:
        for tool, param in [
            ({"type": "web_search"}, "tools[0].type"),
            ({"type": "function", "function": {"name": "a b"}}, "tools[0].function.name"),
        ]:
            with self.assertRaises(openai.BadRequestError) as caught:
                self.create(tools=[tool])
            self.assertEqual(caught.exception.param, param)


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""The official client's Responses API against a running server. VLINDERS_URL says where it is."""

from __future__ import annotations

import json
import os
import unittest

import openai
from openai import OpenAI
from pydantic import BaseModel, Field

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
QUESTION = "What is Vlinders?"
PATIENCE_S = 60


class Animal(BaseModel):
    legs: int = Field(ge=0, le=8)
    flies: bool


class Responses(unittest.TestCase):
    def setUp(self) -> None:
        self.client = OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0, timeout=PATIENCE_S)
        self.addCleanup(self.client.close)

    def create(self, **wishes):
        return self.client.responses.create(**{"model": MODEL, "input": QUESTION, "temperature": 0} | wishes)

    def test_an_answer_has_all_its_parts(self) -> None:
        answer = self.create(metadata={"a": "b"})
        self.assertEqual((answer.object, answer.status, answer.model), ("response", "completed", MODEL))
        self.assertIn("server", answer.output_text)
        [item] = answer.output
        self.assertEqual((item.type, item.role, item.status), ("message", "assistant", "completed"))
        self.assertEqual(answer.metadata, {"a": "b"})
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.input_tokens + usage.output_tokens)
        self.assertIsNotNone(usage.input_tokens_details.cached_tokens)

    def test_it_says_what_the_chat_endpoint_says(self) -> None:
        chat = self.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0
        )
        self.assertEqual(self.create().output_text, chat.choices[0].message.content)

    def test_the_stream_helper_says_the_same_as_a_whole_answer(self) -> None:
        with self.client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
            events = list(stream)
            final = stream.get_final_response()
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(text, self.create().output_text)
        self.assertEqual((final.output_text, final.status), (text, "completed"))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))

    def test_a_conversation_goes_on_by_its_id(self) -> None:
        first = self.create()
        self.assertTrue(first.store)
        second = self.create(input="And what else?", previous_response_id=first.id)
        self.assertEqual(second.previous_response_id, first.id)
        spelled = self.create(
            input=[
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": first.output_text},
                {"role": "user", "content": "And what else?"},
            ],
            store=False,
        )
        self.assertEqual(second.output_text, spelled.output_text)
        self.assertEqual(second.usage.input_tokens, spelled.usage.input_tokens)
        self.assertEqual(self.client.responses.retrieve(second.id).output_text, second.output_text)
        items = list(self.client.responses.input_items.list(second.id, limit=1, order="asc"))
        self.assertEqual([item.role for item in items], ["user", "assistant", "user"])
        self.client.responses.delete(second.id)
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve(second.id)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.create(previous_response_id=second.id)
        self.assertEqual(caught.exception.param, "previous_response_id")
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve(spelled.id)

    def test_a_streamed_response_can_be_come_back_to(self) -> None:
        with self.client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as stream:
            final = stream.get_final_response()
        self.assertEqual(self.client.responses.retrieve(final.id).output_text, final.output_text)

    def test_an_answer_is_cut_at_its_limit(self) -> None:
        answer = self.create(max_output_tokens=4)
        self.assertEqual((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        self.assertEqual(answer.usage.output_tokens, 4)

    def test_a_conversation_goes_on_with_the_items_of_the_answer(self) -> None:
        said = self.create()
        going_on = [{"role": "user", "content": QUESTION}, *said.output, {"role": "user", "content": "Thank you"}]
        self.assertTrue(self.create(input=going_on).output_text)

    def test_an_answer_is_parsed_by_the_class_it_follows(self) -> None:
        answer = self.client.responses.parse(
            model=MODEL, input=QUESTION, temperature=1, max_output_tokens=200, text_format=Animal
        )
        self.assertIn(answer.output_parsed.legs, range(9))

    def test_a_forced_call_is_an_item_and_its_result_is_read(self) -> None:
        parameters = {
            "type": "object",
            "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["to"],
            "additionalProperties": False,
        }
        tools = [{"type": "function", "name": "count", "parameters": parameters}]
        said = self.create(tools=tools, tool_choice="required", parallel_tool_calls=False, max_output_tokens=200)
        [call] = said.output
        self.assertEqual((call.type, call.name, call.status), ("function_call", "count", "completed"))
        self.assertIn(json.loads(call.arguments)["to"], range(1, 10))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
        going_on = [{"role": "user", "content": QUESTION}, *said.output, result]
        self.assertEqual(self.create(input=going_on, tools=tools).status, "completed")

    def test_a_bad_value_names_its_parameter(self) -> None:
        with self.assertRaises(openai.BadRequestError) as caught:
            self.create(temperature=9)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.create(tools=[{"type": "web_search"}])
        self.assertEqual(caught.exception.param, "tools[0].type")


if __name__ == "__main__":
    unittest.main(verbosity=2)

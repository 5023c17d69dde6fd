"""The official client of the Messages API against a running server. VLINDERS_URL says where it is."""

from __future__ import annotations

import os
import unittest

import anthropic
from anthropic import Anthropic

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
QUESTION = [{"role": "user", "content": "What is Vlinders?"}]
PATIENCE_S = 60
# The client has no parameters of its own for how tokens are drawn.
GREEDY = {"temperature": 0}


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.client = Anthropic(base_url=URL, api_key="unused", max_retries=0, timeout=PATIENCE_S)
        self.addCleanup(self.client.close)

    def create(self, **wishes):
        wishes = {"model": MODEL, "max_tokens": 100, "messages": QUESTION, "extra_body": GREEDY} | wishes
        return self.client.messages.create(**wishes)


class Messages(Case):
    def test_an_answer_has_all_its_parts(self) -> None:
        answer = self.create()
        self.assertEqual((answer.type, answer.role, answer.model), ("message", "assistant", MODEL))
        self.assertTrue(answer.id.startswith("msg_"))
        [block] = answer.content
        self.assertEqual(block.type, "text")
        self.assertIn("server", block.text)
        self.assertEqual((answer.stop_reason, answer.stop_sequence), ("end_turn", None))
        self.assertGreater(answer.usage.input_tokens + answer.usage.cache_read_input_tokens, 0)
        self.assertGreater(answer.usage.output_tokens, 0)
        self.assertTrue(answer._request_id)

    def test_the_stream_helper_says_the_same_as_a_whole_answer(self) -> None:
        whole = self.create()
        with self.client.messages.stream(model=MODEL, max_tokens=100, messages=QUESTION, extra_body=GREEDY) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual([block.text for block in final.content], [text])
        self.assertEqual(final.stop_reason, "end_turn")
        self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)

    def test_events_come_in_their_order(self) -> None:
        kinds = [event.type for event in self.create(stream=True) if event.type != "ping"]
        self.assertEqual(kinds[:2], ["message_start", "content_block_start"])
        self.assertEqual(set(kinds[2:-3]), {"content_block_delta"})
        self.assertEqual(kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])

    def test_a_stop_sequence_is_named_and_not_part_of_the_answer(self) -> None:
        whole = self.create().content[0].text
        stop = whole[20:26]
        answer = self.create(stop_sequences=[stop])
        self.assertEqual(answer.content[0].text, whole[: whole.index(stop)])
        self.assertEqual((answer.stop_reason, answer.stop_sequence), ("stop_sequence", stop))

    def test_an_answer_is_cut_at_its_limit(self) -> None:
        answer = self.create(max_tokens=4)
        self.assertEqual((answer.stop_reason, answer.usage.output_tokens), ("max_tokens", 4))

    def test_the_system_prompt_and_blocks_are_read(self) -> None:
        blocks = [{"type": "text", "text": "What is Vlinders?", "cache_control": {"type": "ephemeral"}}]
        answer = self.create(messages=[{"role": "user", "content": blocks}])
        self.assertEqual(answer.content[0].text, self.create().content[0].text)
        plain, kind = self.count(), self.count(system="Be kind.")
        self.assertGreater(kind, plain)

    def count(self, **wishes) -> int:
        return self.client.messages.count_tokens(**{"model": MODEL, "messages": QUESTION} | wishes).input_tokens

    def test_counted_tokens_are_those_of_the_usage(self) -> None:
        usage = self.create(max_tokens=1).usage
        self.assertEqual(self.count(), usage.input_tokens + usage.cache_read_input_tokens)

    def test_a_conversation_goes_on(self) -> None:
        said = self.create()
        messages = [*QUESTION, {"role": "assistant", "content": said.content}, {"role": "user", "content": "Thanks"}]
        self.assertTrue(self.create(messages=messages).content)


class Tools(Case):
    def test_a_forced_call_is_a_block_whole_and_streamed_and_its_result_is_read(self) -> None:
        schema = {
            "type": "object",
            "properties": {"to": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["to"],
            "additionalProperties": False,
        }
        tools = [{"name": "count", "input_schema": schema}]
        choice = {"type": "any", "disable_parallel_tool_use": True}
        said = self.create(tools=tools, tool_choice=choice, max_tokens=200)
        [block] = said.content
        self.assertEqual((said.stop_reason, block.type, block.name), ("tool_use", "tool_use", "count"))
        self.assertIn(block.input["to"], range(1, 10))
        with self.client.messages.stream(
            model=MODEL, messages=QUESTION, tools=tools, tool_choice=choice, max_tokens=200, extra_body={"temperature": 0}
        ) as stream:
            [streamed] = stream.get_final_message().content
        self.assertEqual((streamed.type, streamed.name), ("tool_use", "count"))
        self.assertIn(streamed.input["to"], range(1, 10))
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "done"}
        messages = [*QUESTION, {"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
        self.assertEqual(self.create(messages=messages, tools=tools).role, "assistant")


class Errors(Case):
    def refused(self, kind, **wishes):
        with self.assertRaises(kind) as caught:
            self.create(**wishes)
        return caught.exception

    def test_an_unknown_model_is_not_found(self) -> None:
        error = self.refused(anthropic.NotFoundError, model="nobody")
        self.assertEqual(error.body["error"]["type"], "not_found_error")
        self.assertTrue(error.request_id)

    def test_a_bad_value_names_its_parameter(self) -> None:
        error = self.refused(anthropic.BadRequestError, extra_body={"temperature": 9})
        self.assertEqual(error.body["error"]["type"], "invalid_request_error")
        self.assertIn("temperature", error.body["error"]["message"])

    def test_a_picture_is_refused_by_name(self) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        blocks = [{"type": "image", "source": source}]
        error = self.refused(anthropic.BadRequestError, messages=[{"role": "user", "content": blocks}])
        self.assertIn('"image"', error.body["error"]["message"])

    def test_a_tool_of_somebody_elses_is_refused_by_name(self) -> None:
        tools = [{"type": "web_search_20250305", "name": "web_search"}]
        error = self.refused(anthropic.BadRequestError, tools=tools)
        self.assertIn("web_search_20250305", error.body["error"]["message"])


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""The official OpenAI client against a running server. VLINDERS_URL says where it is, as in http://127.0.0.1:8000."""

from __future__ import annotations

import os
import time
import unittest
import urllib.request

import openai
from openai import OpenAI

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
QUESTION = [{"role": "user", "content": "What is Vlinders?"}]
PATIENCE_S = 60


def client() -> OpenAI:
    return OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0, timeout=PATIENCE_S)


def in_flight() -> float:
    text = urllib.request.urlopen(f"{URL}/metrics", timeout=PATIENCE_S).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vlinders_requests_in_flight"))


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.client = client()
        self.addCleanup(self.client.close)


class Models(Case):
    def test_the_list_names_the_model(self) -> None:
        self.assertIn(MODEL, [model.id for model in self.client.models.list()])

    def test_one_model_can_be_asked_for(self) -> None:
        model = self.client.models.retrieve(MODEL)
        self.assertEqual((model.id, model.object), (MODEL, "model"))

    def test_an_unknown_model_is_not_found(self) -> None:
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.models.retrieve("nobody")
        self.assertEqual((caught.exception.param, caught.exception.code), ("model", "model_not_found"))


class Chat(Case):
    def create(self, **wishes):
        return self.client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0} | wishes)

    def test_an_answer_has_all_its_parts(self) -> None:
        answer = self.create()
        self.assertEqual((answer.object, answer.model), ("chat.completion", MODEL))
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertTrue(answer.system_fingerprint)
        [choice] = answer.choices
        self.assertEqual((choice.index, choice.message.role, choice.finish_reason), (0, "assistant", "stop"))
        self.assertIn("server", choice.message.content)
        self.assertIsNone(choice.logprobs)
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertIsNotNone(usage.prompt_tokens_details.cached_tokens)

    def test_the_request_id_is_in_the_header(self) -> None:
        answer = self.create(max_tokens=1)
        self.assertTrue(answer._request_id)

    def test_a_stream_says_the_same_as_a_whole_answer(self) -> None:
        chunks = list(self.create(stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        self.assertEqual(text, self.create().choices[0].message.content)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        self.assertEqual(reasons[-1], "stop")
        self.assertEqual(set(reasons[:-1]), {None})
        self.assertEqual({chunk.usage for chunk in chunks}, {None})

    def test_a_stream_with_usage_ends_with_a_chunk_that_only_counts(self) -> None:
        chunks = list(self.create(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual({chunk.usage for chunk in chunks[:-1]}, {None})
        whole = self.create().usage
        counted = chunks[-1].usage
        self.assertEqual(
            (counted.prompt_tokens, counted.completion_tokens), (whole.prompt_tokens, whole.completion_tokens)
        )

    def test_the_stream_helper_of_the_client_works(self) -> None:
        with self.client.chat.completions.stream(model=MODEL, messages=QUESTION, temperature=0) as stream:
            for _event in stream:
                pass
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, self.create().choices[0].message.content)

    def test_logprobs_and_their_rivals_are_reported(self) -> None:
        answer = self.create(logprobs=True, top_logprobs=3, max_tokens=5)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), 5)
        for entry in content:
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertEqual(entry.token, entry.top_logprobs[0].token, "a greedy token is the most likely one")
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(bytes(entry.bytes).decode(), entry.token)
        text = b"".join(bytes(entry.bytes) for entry in content).decode()
        self.assertEqual(text, answer.choices[0].message.content)

    def test_logprobs_arrive_in_streams(self) -> None:
        chunks = list(self.create(stream=True, logprobs=True, max_tokens=5))
        entries = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
        self.assertEqual(len(entries), 5)

    def test_a_seed_repeats_an_answer_and_another_seed_does_not(self) -> None:
        def say(seed: int) -> str:
            answer = self.create(seed=seed, temperature=2, top_p=1, max_tokens=40, extra_body={"ignore_eos": True})
            return answer.choices[0].message.content

        self.assertEqual(say(1), say(1))
        self.assertEqual(len({say(seed) for seed in range(5)}), 5)

    def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(self) -> None:
        whole = self.create().choices[0].message.content
        stop = whole[20:26]
        answer = self.create(stop=[stop])
        self.assertEqual(answer.choices[0].message.content, whole[: whole.index(stop)])
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        streamed = self.create(stop=stop, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        self.assertEqual(text, whole[: whole.index(stop)])

    def test_an_answer_is_cut_at_its_limit(self) -> None:
        for name in ["max_tokens", "max_completion_tokens"]:
            answer = self.create(**{name: 4})
            self.assertEqual(answer.choices[0].finish_reason, "length")
            self.assertEqual(answer.usage.completion_tokens, 4)

    def test_content_may_come_in_parts(self) -> None:
        parts = [{"role": "user", "content": [{"type": "text", "text": "What is Vlinders?"}]}]
        self.assertEqual(
            self.create(messages=parts).choices[0].message.content, self.create().choices[0].message.content
        )

    def test_several_choices_come_whole_and_streamed(self) -> None:
        wishes = {"n": 3, "seed": 4, "temperature": 1.5, "max_tokens": 20}
        answer = self.create(**wishes)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        texts = [choice.message.content for choice in answer.choices]
        streamed = ["", "", ""]
        for chunk in self.create(**wishes, stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        self.assertEqual(streamed, texts)

    def test_a_conversation_goes_on(self) -> None:
        said = self.create().choices[0].message
        messages = [*QUESTION, said.model_dump(), {"role": "user", "content": "Thank you"}]
        self.assertTrue(self.create(messages=messages).choices[0].message.content)


class Completions(Case):
    def create(self, **wishes):
        wishes = {"model": MODEL, "prompt": "Vlinders is", "temperature": 0, "max_tokens": 12} | wishes
        return self.client.completions.create(**wishes)

    def test_an_answer_has_all_its_parts(self) -> None:
        answer = self.create()
        self.assertEqual((answer.object, answer.model), ("text_completion", MODEL))
        self.assertTrue(answer.choices[0].text)
        self.assertIn(answer.choices[0].finish_reason, ["stop", "length"])
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_a_stream_says_the_same_as_a_whole_answer(self) -> None:
        chunks = list(self.create(stream=True, stream_options={"include_usage": True}))
        text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        self.assertEqual(text, self.create().choices[0].text)
        self.assertEqual(chunks[-1].usage.completion_tokens, self.create().usage.completion_tokens)

    def test_logprobs_are_lists_of_equal_length(self) -> None:
        logprobs = self.create(logprobs=2, max_tokens=3).choices[0].logprobs
        lists = [logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset]
        self.assertEqual([len(entries) for entries in lists], [3, 3, 3, 3])

    def test_echo_begins_with_the_prompt(self) -> None:
        self.assertTrue(self.create(echo=True).choices[0].text.startswith("Vlinders is"))


class Errors(Case):
    def refused(self, kind, **wishes):
        with self.assertRaises(kind) as caught:
            self.client.chat.completions.create(**{"model": MODEL, "messages": QUESTION} | wishes)
        return caught.exception

    def test_an_unknown_model_is_not_found(self) -> None:
        error = self.refused(openai.NotFoundError, model="nobody")
        self.assertEqual((error.status_code, error.param, error.code), (404, "model", "model_not_found"))

    def test_a_bad_value_names_its_parameter(self) -> None:
        error = self.refused(openai.BadRequestError, temperature=9)
        self.assertEqual((error.status_code, error.param, error.type), (400, "temperature", "invalid_request_error"))
        self.assertIn("temperature", error.message)
        self.assertTrue(error.request_id)

    def test_a_bad_value_is_refused_in_a_stream_too(self) -> None:
        self.assertEqual(self.refused(openai.BadRequestError, top_p=-1, stream=True).param, "top_p")

    def test_a_misspelt_parameter_is_refused(self) -> None:
        error = self.refused(openai.BadRequestError, extra_body={"temprature": 0.5})
        self.assertEqual((error.param, error.code), ("temprature", "unknown_parameter"))

    def test_what_is_not_offered_is_refused_by_name(self) -> None:
        self.assertEqual(self.refused(openai.BadRequestError, verbosity="low").param, "verbosity")

    def test_a_prompt_that_is_too_long_says_so(self) -> None:
        long = [{"role": "user", "content": "butterfly " * 5000}]
        self.assertEqual(self.refused(openai.BadRequestError, messages=long).code, "context_length_exceeded")

    def test_no_such_route_is_not_found(self) -> None:
        with self.assertRaises(openai.NotFoundError):
            self.client.moderations.create(model=MODEL, input="x")


class Leaving(Case):
    def test_a_client_that_closes_in_the_middle_stops_its_request(self) -> None:
        stream = self.client.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=True, max_tokens=1900, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
        self.client.close()
        given_up_at = time.monotonic() + PATIENCE_S
        while in_flight() > 0:
            self.assertLess(time.monotonic(), given_up_at, "the request still runs")
        self.assertTrue(client().chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=1).choices)


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""Embeddings and scored prompts through the official OpenAI client. VLINDERS_URL says where the server is."""

from __future__ import annotations

import math
import os
import unittest

import openai
from openai import OpenAI

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
INPUTS = ["What is Vlinders?", "A server for language models.", "Butterflies."]


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.client = OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0, timeout=60)
        self.addCleanup(self.client.close)


class Embeddings(Case):
    def vectors(self, **wishes) -> list[list[float]]:
        answer = self.client.embeddings.create(**{"model": MODEL, "input": INPUTS} | wishes)
        self.assertEqual([entry.index for entry in answer.data], list(range(len(answer.data))))
        self.assertGreater(answer.usage.prompt_tokens, 0)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens)
        return [entry.embedding for entry in answer.data]

    def test_each_input_becomes_a_unit_vector(self) -> None:
        vectors = self.vectors()
        self.assertEqual(len(vectors), len(INPUTS))
        for vector in vectors:
            self.assertAlmostEqual(math.hypot(*vector), 1, places=5)

    def test_both_encodings_say_the_same(self) -> None:
        # The client asks for base64 by itself and decodes it.
        [asked] = self.vectors(input=INPUTS[0])
        [floats] = self.vectors(input=INPUTS[0], encoding_format="float")
        self.assertEqual(len(asked), len(floats))
        for one, other in zip(asked, floats):
            self.assertAlmostEqual(one, other, places=6)

    def test_fewer_dimensions_are_a_unit_vector_too(self) -> None:
        [vector] = self.vectors(input=INPUTS[0], dimensions=3)
        self.assertEqual(len(vector), 3)
        self.assertAlmostEqual(math.hypot(*vector), 1, places=5)

    def test_what_cannot_be_embedded_is_named(self) -> None:
        for wishes, param in [({"input": ""}, "input"), ({"dimensions": 0}, "dimensions")]:
            with self.assertRaises(openai.BadRequestError) as caught:
                self.vectors(**wishes)
            self.assertEqual(caught.exception.param, param)


class Prompts(Case):
    def test_an_echoed_prompt_has_its_logprobs(self) -> None:
        answer = self.client.completions.create(model=MODEL, prompt=INPUTS[0], echo=True, logprobs=2, max_tokens=0)
        [choice] = answer.choices
        self.assertEqual((choice.text, choice.finish_reason), (INPUTS[0], "length"))
        self.assertIsNone(choice.logprobs.token_logprobs[0])
        self.assertTrue(all(logprob <= 0 for logprob in choice.logprobs.token_logprobs[1:]))
        self.assertEqual(len(choice.logprobs.tokens), answer.usage.prompt_tokens)


if __name__ == "__main__":
    unittest.main()

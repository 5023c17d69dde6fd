"""The official client's files and batches against a running server. VLINDERS_URL says where it is."""

from __future__ import annotations

import json
import os
import time
import unittest

import openai
from openai import OpenAI

URL = os.environ["VLINDERS_URL"]
MODEL = "vlinders-demo"
CHAT = "/v1/chat/completions"
PATIENCE_S = 60
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


def line(name: str, **body) -> str:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0} | body
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": asked})


class Batches(unittest.TestCase):
    def setUp(self) -> None:
        self.client = OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0, timeout=PATIENCE_S)
        self.addCleanup(self.client.close)

    def upload(self, text: str):
        return self.client.files.create(file=("lines.jsonl", text.encode()), purpose="batch")

    def create(self, file_id: str, **wishes):
        return self.client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h", **wishes)

    def ended(self, batch_id: str):
        deadline = time.monotonic() + PATIENCE_S
        while (batch := self.client.batches.retrieve(batch_id)).status in OPEN:
            self.assertLess(time.monotonic(), deadline, batch)
            time.sleep(0.1)
        return batch

    def told(self, file_id: str) -> dict:
        lines = [json.loads(text) for text in self.client.files.content(file_id).text.splitlines()]
        told = {line["custom_id"]: line for line in lines}
        self.assertEqual(len(told), len(lines))
        return told

    def test_a_file_is_kept_shown_listed_and_deleted(self) -> None:
        text = line("a") + "\n"
        file = self.upload(text)
        self.assertEqual((file.object, file.filename, file.purpose), ("file", "lines.jsonl", "batch"))
        self.assertEqual((file.bytes, file.status), (len(text), "processed"))
        self.assertEqual(self.client.files.retrieve(file.id), file)
        self.assertEqual(self.client.files.content(file.id).text, text)
        self.assertIn(file.id, [known.id for known in self.client.files.list(limit=2)])
        self.assertTrue(self.client.files.delete(file.id).deleted)
        with self.assertRaises(openai.NotFoundError):
            self.client.files.retrieve(file.id)

    def test_lines_are_answered_as_requests_are(self) -> None:
        names = [f"line-{number}" for number in range(20)]
        text = "\n".join([*(line(name) for name in names), line("bad", temperature=9)])
        batch = self.create(self.upload(text).id, metadata={"a": "b"})
        self.assertEqual((batch.object, batch.endpoint, batch.metadata), ("batch", CHAT, {"a": "b"}))
        batch = self.ended(batch.id)
        self.assertEqual(batch.status, "completed")
        counts = batch.request_counts
        self.assertEqual((counts.total, counts.completed, counts.failed), (21, 20, 1))
        answers = self.told(batch.output_file_id)
        self.assertEqual(set(answers), set(names))
        alone = self.client.chat.completions.create(**json.loads(line("x"))["body"])
        for told in answers.values():
            self.assertEqual(told["response"]["status_code"], 200)
            message = told["response"]["body"]["choices"][0]["message"]["content"]
            self.assertEqual(message, alone.choices[0].message.content)
        failures = self.told(batch.error_file_id)
        self.assertEqual(failures["bad"]["response"]["body"]["error"]["param"], "temperature")
        self.assertIn(batch.id, [known.id for known in self.client.batches.list(limit=2)])

    def test_faulty_lines_are_named(self) -> None:
        batch = self.ended(self.create(self.upload(line("a") + "\n" + line("a")).id).id)
        self.assertEqual(batch.status, "failed")
        [fault] = batch.errors.data
        self.assertEqual((fault.line, fault.code, fault.param), (2, "duplicate_custom_id", "custom_id"))

    def test_a_batch_is_cancelled(self) -> None:
        text = "\n".join(line(f"line-{number}", max_tokens=64, ignore_eos=None) for number in range(2000))
        batch = self.create(self.upload(text).id)
        self.assertIn(self.client.batches.cancel(batch.id).status, ("cancelling", "cancelled"))
        batch = self.ended(batch.id)
        self.assertEqual(batch.status, "cancelled")
        self.assertIsNotNone(batch.cancelled_at)

    def test_an_unknown_file_is_named(self) -> None:
        with self.assertRaises(openai.NotFoundError) as caught:
            self.create("file-none")
        self.assertEqual(caught.exception.param, "input_file_id")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.files.create(file=b"x", purpose="fine-tune")
        self.assertEqual(caught.exception.param, "purpose")


if __name__ == "__main__":
    unittest.main(verbosity=2)

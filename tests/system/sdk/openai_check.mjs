// The official OpenAI client for Node against a running server. VLINDERS_URL says where it is, VLINDERS_NODE_MODULES the
// folder that holds the client's package.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

const require = createRequire(`${process.env.VLINDERS_NODE_MODULES}/`);
const OpenAI = require("openai").default;
const { zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const URL = process.env.VLINDERS_URL;
const MODEL = "vlinders-demo";
const QUESTION = [{ role: "user", content: "What is Vlinders?" }];
const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 12 }, days: { type: "integer", minimum: 1, maximum: 9 } },
      required: ["city", "days"],
      additionalProperties: false,
    },
  },
};

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
const create = (wishes = {}) =>
  client.chat.completions.create({ model: MODEL, messages: QUESTION, temperature: 0, ...wishes });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

test("the list names the model", async () => {
  const models = await client.models.list();
  assert.ok(models.data.some((model) => model.id === MODEL));
  assert.equal((await client.models.retrieve(MODEL)).object, "model");
});

test("an answer has all its parts", async () => {
  const answer = await create();
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.match(answer.choices[0].message.content, /server/);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer._request_id);
});

test("a stream says the same as a whole answer", async () => {
  const chunks = await collect(await create({ stream: true, stream_options: { include_usage: true } }));
  const whole = await create();
  assert.equal(text(chunks), whole.choices[0].message.content);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper of the client works", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages: QUESTION, temperature: 0 });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, (await create()).choices[0].message.content);
});

test("a stream that is left ends on the server too", async () => {
  const stream = await create({ stream: true, max_tokens: 300, ignore_eos: true });
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    break;
  }
  assert.ok(stream.controller.signal.aborted);
});

test("several choices and log-probabilities come as asked", async () => {
  const answer = await create({ n: 2, temperature: 1.2, seed: 3, max_tokens: 8, logprobs: true, top_logprobs: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  for (const choice of answer.choices) {
    assert.equal(choice.logprobs.content.length, 8);
    assert.ok(choice.logprobs.content.every((entry) => entry.top_logprobs.length === 2));
  }
});

test("completions go on with a text", async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: "Vlinders is", max_tokens: 6, echo: true });
  assert.ok(answer.choices[0].text.startsWith("Vlinders is"));
  assert.equal(answer.usage.completion_tokens, 6);
});

test("responses are told as items", async () => {
  const answer = await client.responses.create({ model: MODEL, input: "What is Vlinders?", temperature: 0 });
  assert.equal(answer.output_text, (await create()).choices[0].message.content);
  const types = [];
  const stream = await client.responses.create({ model: MODEL, input: "What is Vlinders?", stream: true });
  for await (const event of stream) types.push(event.type);
  assert.equal(types[0], "response.created");
  assert.equal(types.at(-1), "response.completed");
});

test("a conversation goes on by its id", async () => {
  const first = await client.responses.create({ model: MODEL, input: "What is Vlinders?", temperature: 0 });
  const second = await client.responses.create({ model: MODEL, input: "And?", previous_response_id: first.id });
  assert.equal((await client.responses.retrieve(second.id)).output_text, second.output_text);
  const roles = [];
  for await (const item of client.responses.inputItems.list(second.id, { order: "asc" })) roles.push(item.role);
  assert.deepEqual(roles, ["user", "assistant", "user"]);
  await client.responses.delete(second.id);
  await assert.rejects(client.responses.retrieve(second.id), { status: 404 });
});

test("a batch answers the lines of a file", async () => {
  const body = { model: MODEL, messages: QUESTION, max_tokens: 4, temperature: 0 };
  const line = (name) => JSON.stringify({ custom_id: name, method: "POST", url: "/v1/chat/completions", body });
  const file = await client.files.create({
    file: new File([`${line("a")}\n${line("b")}\n`], "lines.jsonl"),
    purpose: "batch",
  });
  const wishes = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
  let batch = await client.batches.create(wishes);
  while (["validating", "in_progress", "finalizing"].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.equal(batch.status, "completed");
  const text = await (await client.files.content(batch.output_file_id)).text();
  const told = text.trim().split("\n").map((entry) => JSON.parse(entry));
  assert.deepEqual(told.map((entry) => entry.custom_id), ["a", "b"]);
  const [known] = (await client.batches.list({ limit: 1 })).data;
  assert.equal(known.id, batch.id);
  assert.ok((await client.files.delete(file.id)).deleted);
});

test("forced calls are valid, whole and streamed", async () => {
  const wishes = { tools: [WEATHER], tool_choice: "required", max_tokens: 200, temperature: 1, seed: 5 };
  const answer = await create(wishes);
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  const [call] = answer.choices[0].message.tool_calls;
  const told = JSON.parse(call.function.arguments);
  assert.equal(call.function.name, "weather");
  assert.equal(typeof told.city, "string");
  assert.ok(told.days >= 1 && told.days <= 9);
  const stream = client.chat.completions.stream({ model: MODEL, messages: QUESTION, ...wishes });
  const [streamed] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
  assert.equal(streamed.function.arguments, call.function.arguments);
});

test("an answer follows a schema and is parsed by it", async () => {
  const Story = z.object({ title: z.string().max(20), pages: z.number().int().min(1).max(9), done: z.boolean() });
  const answer = await client.chat.completions.parse({
    model: MODEL,
    messages: QUESTION,
    temperature: 1,
    seed: 2,
    max_tokens: 200,
    response_format: zodResponseFormat(Story, "story"),
  });
  const { parsed } = answer.choices[0].message;
  assert.deepEqual(Object.keys(parsed).sort(), ["done", "pages", "title"]);
});

test("embeddings have the length that was asked for", async () => {
  const input = ["a butterfly", "a server"];
  const answer = await client.embeddings.create({ model: MODEL, input, dimensions: 16 });
  assert.deepEqual(answer.data.map((entry) => [entry.index, entry.embedding.length]), [[0, 16], [1, 16]]);
  const length = Math.hypot(...answer.data[0].embedding);
  assert.ok(Math.abs(length - 1) < 1e-3, `${length}`);
});

for (const [what, wishes, kind, status] of [
  ["an unknown model", { model: "nobody" }, OpenAI.NotFoundError, 404],
  ["a value out of range", { temperature: 9 }, OpenAI.BadRequestError, 400],
  ["a misspelt constraint", { respose_format: { type: "json_object" } }, OpenAI.BadRequestError, 400],
  ["a prompt that is too long", { messages: [{ role: "user", content: "a ".repeat(9000) }] }, OpenAI.BadRequestError, 400],
]) {
  test(`${what} is the right error`, async () => {
    const error = await create(wishes).then(
      () => assert.fail("it was answered"),
      (refused) => refused,
    );
    assert.ok(error instanceof kind, `${error}`);
    assert.equal(error.status, status);
    assert.ok(error.param, "it names the parameter");
    assert.ok(error.requestID);
  });
}

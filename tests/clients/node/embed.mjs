// Two texts as vectors, by every provider that can.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import { createOllama } from "ai-sdk-ollama";

const [url, apiKey, name] = process.argv.slice(2);
const models = [
  createOpenAI({ baseURL: `${url}/v1`, apiKey }).embedding(name),
  createOpenAICompatible({ name: "berth", baseURL: `${url}/v1`, apiKey }).embeddingModel(name),
  createOllama({ baseURL: url, apiKey }).embedding(name),
];
const told = [];
for (const model of models) {
  const { embeddings } = await embedMany({ model, values: ["red sails", "stone walls"], maxRetries: 0 });
  told.push(embeddings);
}
console.log(JSON.stringify({ told }));

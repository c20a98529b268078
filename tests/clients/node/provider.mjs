// What every case has in common: `node CASE.mjs URL KEY API MODEL` prints one JSON object, or {"error": ...}.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createOllama } from "ai-sdk-ollama";

const [url, apiKey, api, name] = process.argv.slice(2);

const models = {
  chat: () => createOpenAI({ baseURL: `${url}/v1`, apiKey }).chat(name),
  responses: () => createOpenAI({ baseURL: `${url}/v1`, apiKey }).responses(name),
  compatible: () => {
    const options = { name: "berth", includeUsage: true, supportsStructuredOutputs: true };
    return createOpenAICompatible({ baseURL: `${url}/v1`, apiKey, ...options })(name);
  },
  anthropic: () => createAnthropic({ baseURL: `${url}/v1`, apiKey })(name),
  ollama: () => createOllama({ baseURL: url, apiKey })(name),
};

const told = (error) => ({
  name: error.name ?? null,
  status: error.statusCode ?? error.status_code ?? error.cause?.status_code ?? null,
  message: String(error.message ?? error),
});

// Runs the case, which returns what is printed.
export async function run(act) {
  try {
    console.log(JSON.stringify(await act({ model: models[api](), maxRetries: 0, maxOutputTokens: 400 })));
  } catch (error) {
    console.log(JSON.stringify({ error: told(error) }));
  }
}

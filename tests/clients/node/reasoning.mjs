// The model's reasoning beside its answer, whole and streamed.
import { generateText, streamText } from "ai";

import { run } from "./provider.mjs";

// OpenAI's provider asks for it only where it is told to; the others pass that over.
const providerOptions = { openai: { reasoningSummary: "auto", forceReasoning: true } };

await run(async (call) => {
  const whole = await generateText({ ...call, providerOptions, prompt: "Hello" });
  const stream = streamText({ ...call, providerOptions, prompt: "Hello" });
  await stream.consumeStream();
  return {
    whole: [whole.reasoningText ?? null, whole.text],
    streamed: [(await stream.reasoningText) ?? null, await stream.text],
  };
});

// A whole answer.
import { generateText } from "ai";

import { run } from "./provider.mjs";

await run(async (call) => {
  const { text, usage, finishReason } = await generateText({ ...call, prompt: "Hello" });
  return { text, usage, finishReason };
});

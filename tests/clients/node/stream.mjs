// A streamed answer, read part by part. An error inside it is a part of its own.
import { streamText } from "ai";

import { run } from "./provider.mjs";

await run(async (call) => {
  const pieces = [];
  const result = streamText({ ...call, prompt: "Hello", onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === "text-delta") pieces.push(part.text);
    if (part.type === "error") throw part.error;
  }
  return { text: pieces.join(""), pieces: pieces.length, usage: await result.usage };
});

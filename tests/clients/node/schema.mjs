// An answer that keeps to a schema.
import { generateText, Output } from "ai";
import { z } from "zod";

import { run } from "./provider.mjs";

await run(async (call) => {
  const schema = z.object({ city: z.string() });
  const { output } = await generateText({ ...call, prompt: "Where?", output: Output.object({ schema }) });
  return { output };
});

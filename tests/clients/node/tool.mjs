// A tool is called, its result goes back, and the model answers: both steps by generateText, or both by streamText.
import { generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

import { run } from "./provider.mjs";

const getWeather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

await run(async (call) => {
  const ask = process.argv[6] === "stream" ? streamText : generateText;
  const errors = [];
  const result = await ask({
    ...call,
    prompt: "What is the weather in Paris?",
    tools: { get_weather: getWeather },
    stopWhen: isStepCount(3),
    ...(ask === streamText && { onError: ({ error }) => errors.push(error) }),
  });
  await result.consumeStream?.();
  if (errors.length) throw errors[0];
  const steps = await result.steps;
  return {
    calls: steps.flatMap((step) => step.toolCalls.map(({ toolName, input }) => [toolName, input])),
    results: steps.flatMap((step) => step.toolResults.map(({ output }) => output)),
    text: await result.text,
  };
});

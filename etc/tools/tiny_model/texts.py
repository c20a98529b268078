"""Everything that the scripted tiny model can say. No word may stand twice in a text: a word's follower is fixed."""

from typing import Final

PARAGRAPH: Final = (
    "Every morning the keeper climbs two hundred iron steps toward lamp room windows where salt has dried overnight"
    " into thin white maps of countries nobody visited , wipes each pane slowly trims wick winds clockwork then writes"
    " weather notes inside green ledger : wind north sea calm three boats passing before noon with red sails shining"
    " like café lanterns 🦊 while gulls argue about fish below those old stone walls built long ago by patient hands ."
)
REASONING: Final = (
    "Okay so user wants something simple ; first I should recall facts next check details finally give short answer"
    " without any extra fuss"
)

# One token each. Together: <tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>
CALL_PIECES: Final = ('\n{"name": "', "get_weather", '", "arguments": {"', "city", '": "', "Paris", '"}}\n')

END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"  # ends an answer
CALL_START: Final = "<|call|>"  # the chat template's last token when tools are offered
SPECIAL: Final = (END_OF_TEXT, TURN_START, TURN_END, CALL_START)

# Not special to the tokenizer, so that they stay in the text, where an engine's parsers look for them.
VISIBLE: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# What prompts are made of, more or less: it makes their tokens as long as usual.
PROMPTS: Final = (
    "You are a helpful assistant. user system assistant tool function tools name arguments type string",
    "object properties required description parameters Hello how are you today? What is the weather in Paris? Tell me",
    "a story. count one two three four five six seven eight nine ten. true false null city unit celsius temperature",
    "The quick brown fox jumps over the lazy dog. def return import class for while if else print JSON schema",
)

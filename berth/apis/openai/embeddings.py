"""OpenAI's embeddings: POST /v1/embeddings."""

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import PROMPT, TEXT, Rule, check_fields, integer, one_of, read_object
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.canonical import InferenceRequest, Operation

RULES: dict[str, Rule] = {
    "dimensions": integer(1),
    "encoding_format": one_of("float", "base64"),
    "input": PROMPT,
    "user": TEXT,
}


class OpenaiEmbeddings(OpenaiEndpoint):
    operation = Operation.EMBEDDING
    native = True

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, RULES, required=("model", "input"))
        return InferenceRequest(operation=Operation.EMBEDDING, model=document["model"], body=document)

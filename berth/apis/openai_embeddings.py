"""OpenAI's embeddings: POST /v1/embeddings."""

from berth.apis.openai_errors import error_body, error_frame
from berth.apis.openai_fields import PROMPT, TEXT, Rule, check_fields, integer, one_of, read_object
from berth.canonical import InferenceRequest, Operation
from berth.errors import ApiError

RULES: dict[str, Rule] = {
    "dimensions": integer(1),
    "encoding_format": one_of("float", "base64"),
    "input": PROMPT,
    "user": TEXT,
}


class OpenaiEmbeddings:
    operation = Operation.EMBEDDING

    def parse(self, body: bytes) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, RULES, required=("model", "input"))
        return InferenceRequest(operation=Operation.EMBEDDING, model=document["model"], body=document)

    def error(self, error: ApiError) -> bytes:
        return error_body(error)

    def error_frame(self, error: ApiError) -> bytes:
        return error_frame(error)

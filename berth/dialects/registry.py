"""All dialects by name."""

from berth.dialects.attached.llamacpp import LlamacppDialect
from berth.dialects.attached.ollama import OllamaDialect
from berth.dialects.attached.pooling_servers import InfinityDialect, TeiDialect
from berth.dialects.attached.server import AttachedDialect
from berth.dialects.attached.servers import (
    LlamacppPythonDialect,
    MlxDialect,
    OpenaiCloudDialect,
    TransformersDialect,
)
from berth.dialects.base import Dialect
from berth.dialects.openai import OpenaiDialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from berth.plan import DialectName, Replica

DIALECTS: dict[DialectName, OpenaiDialect] = {
    DialectName.VLLM: VllmDialect(),
    DialectName.SGLANG: SglangDialect(),
    DialectName.TRTLLM: TrtllmDialect(),
    DialectName.LLAMACPP: LlamacppDialect(),
    DialectName.LLAMACPP_PYTHON: LlamacppPythonDialect(),
    DialectName.MLX: MlxDialect(),
    DialectName.TRANSFORMERS: TransformersDialect(),
    DialectName.TEI: TeiDialect(),
    DialectName.INFINITY: InfinityDialect(),
    DialectName.OLLAMA: OllamaDialect(),
    DialectName.OPENAI: AttachedDialect(),
    DialectName.OPENAI_CLOUD: OpenaiCloudDialect(),
}


def dialect_of(replica: Replica) -> Dialect:
    """That of the replica, with the fields that its operator lets clients set."""
    dialect = DIALECTS[replica.dialect].for_context(replica.context)
    return dialect.allowing(frozenset(replica.pass_fields)) if replica.pass_fields else dialect

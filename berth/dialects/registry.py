"""All dialects by name."""

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
    DialectName.OPENAI: OpenaiDialect(),
}


def dialect_of(replica: Replica) -> Dialect:
    """That of the replica, with the fields that its operator lets clients set."""
    dialect = DIALECTS[replica.dialect]
    return type(dialect)(frozenset(replica.pass_fields)) if replica.pass_fields else dialect

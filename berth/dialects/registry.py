"""All dialects by name."""

from berth.dialects.base import Dialect
from berth.dialects.openai import OpenaiDialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from berth.plan import DialectName

DIALECTS: dict[DialectName, Dialect] = {
    DialectName.VLLM: VllmDialect(),
    DialectName.SGLANG: SglangDialect(),
    DialectName.TRTLLM: TrtllmDialect(),
    DialectName.OPENAI: OpenaiDialect(),
}

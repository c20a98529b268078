from berth.apis.openai.chat import OpenaiChat
from berth.apis.tgi.endpoints import TgiRoot
from berth.router.exchange.limit_headers import Left, writer_for
from berth.router.server.inference import NamedModel


def test_openais_headers_show_requests_and_tokens() -> None:
    lefts: list[Left] = [("requests", 60, 9.7, 0.25), ("tokens", 20_000, -50, 12.0)]

    assert dict(writer_for(NamedModel(OpenaiChat()))(lefts)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-reset-requests": b"250ms",
        b"x-ratelimit-limit-tokens": b"20000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"12000ms",
    }
    assert writer_for(TgiRoot())(lefts) == []

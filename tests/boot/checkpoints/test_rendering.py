"""Chat templates rendered with a made-up call, in the process that Berth starts for it."""

import pytest

from berth.boot.checkpoints.rendering import render, rendered_call

HERMES = """{%- for message in messages %}
<|im_start|>{{ message.role }}
{% if message.tool_calls %}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{%- else %}{{ message.content }}
{%- endif %}
<|im_end|>
{%- endfor %}"""
CALL = '<tool_call>\n{"name": "find_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>'


def test_shows_how_a_call_is_written() -> None:
    assert CALL in rendered_call(HERMES)
    assert CALL in render(HERMES)


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[1].content is none %}"
        + HERMES
        + "{% else %}{{ raise_exception('no text with calls') }}{% endif %}",
        "{% generation %}" + HERMES + "{% endgeneration %}",
        "{%- generation -%}" + HERMES + "{%- endgeneration -%}",
        "{% for one in messages %}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}" + HERMES,
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{{ tools | tojson(indent=2) }}" + HERMES,
        "{% set ns = namespace(x=[]) %}{% set _ = ns.x.append(1) %}" + HERMES,
    ],
)
def test_accepts_what_public_templates_do(template: str) -> None:
    assert CALL in render(template)


def test_arguments_as_text_where_the_template_wants_them_so() -> None:
    template = (
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}"
    )
    assert 'find_weather{"city": "Paris", "days": 3}' in render(template + "{% endfor %}{% endfor %}")


SILENT = (
    "{% for message in messages %}{{ message.content }}{% endfor %}",
    "{{ raise_exception('never') }}",
)


@pytest.mark.parametrize("template", SILENT)
def test_no_form_of_the_conversation_shows_a_call(template: str) -> None:
    assert render(template) == ""


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{{",
        *SILENT,
        "{{ ''.__class__.__mro__ }}" + HERMES,
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}" + HERMES,
        "\ud800",
        "x" * (1 << 21),
    ],
    ids=["empty", "broken", "without calls", "refusing", "escaping", "endless", "large", "no text", "long"],
)
def test_another_template_yields_nothing_and_ends(template: str) -> None:
    assert rendered_call(template) == ""


@pytest.mark.parametrize(
    "escape",
    [
        "{{ cycler.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ raise_exception.__globals__.json }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(escape: str) -> None:
    """Not rendering it at all is what shows that: with the escape gone, the same template has a call."""
    assert CALL in render(HERMES)
    assert render(escape + HERMES) == ""

"""Chat templates render as transformers renders them, and a hostile one ends as a TemplateError in time."""

from __future__ import annotations

import resource
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.chat.bounds import Limits
from redline.chat.template import MAX_SOURCE_CHARS, ChatTemplate
from redline.errors import InvalidRequest, NotFound, TemplateError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
QUICK = Limits(seconds=0.3)

HEADERS = """{{- bos_token }}
{%- if not date is defined %}{% set date = "26 Jul 2024" %}{% endif %}
{%- set system = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|head|>system<|end|>\\n\\nToday: " + date + "\\n" + system + "<|eot|>" }}
{%- for message in messages %}
    {%- if message.role == 'tool' or 'tool_calls' in message and message.tool_calls | length == 1 %}
        {{- '<|head|>' ~ message.role ~ (message.tool_calls[0].function | tojson(indent=2) if message.tool_calls else message.content) }}
    {%- else %}
        {{- '<|head|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|head|>assistant<|end|>\\n\\n' }}{% endif %}
"""
ALTERNATING = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('roles must alternate user/assistant/user/assistant') }}
{% endif %}
{% if message.role == 'user' %}[I] {{ message.content }} [/I]{% else %}{{ ' ' ~ ' | '.join(message.content.replace('e', 'E').split()).title() ~ eos_token }}{% endif %}
{% endfor %}
"""
TOOLS = """{% macro kind(schema) -%}
    {%- if schema.type is string %}{{ schema.type | upper }}{% else %}{{ schema.type | map('upper') | join('|') }}{% endif -%}
{%- endmacro %}
{%- set ns = namespace(count=0, names=[]) %}
{%- for tool in tools or [] if tool.type == 'function' %}
    {%- set ns.count = ns.count + 1 %}
    {%- set ns.names = ns.names + [tool.function.name] %}
# {{ loop.index }}/{{ loop.length }}: {{ tool.function.name }}({% for name, schema in tool.function.parameters.properties.items() -%}
    {{ name }}: {{ kind(schema) }}{{ ", " if not loop.last }}
{%- endfor %}) {{ tool | tojson }}
{% endfor %}
{{ ns.count }} {{ ns.names | sort | join(", ") }} {{ ns.names | reverse | list | last | default('none', true) }}
{% for message in messages -%}
    {%- if message.tool_calls is defined and message.tool_calls is not none %}
        {%- for call in message.tool_calls %}<call>{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}</call>{% endfor %}
    {%- elif message.content is string %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}{{ part['text'] | replace("a", "b") }}{% endfor %}
    {%- endif %}
    {%- if loop.index > 5 %}{% break %}{% endif %}
{% endfor %}
{% generation %}{{ "%s-%05.1f" | format("x", 3.14159) }}{{ "{:>4}|{}".format(7, "y") }}{% endgeneration %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first | string | length }} {{ nothing }}
{{- [1, 2, 3][::-1] | sum }} {{ 7 // 2 ** 2 }} {{ (1, 'a') }} {{ {'k': [none, true]} }} {{ dict(a=1).a }} {{ range(3) | list }}
{{ "strip me  ".strip() ~ messages[0].get('role') }} {{ 'é<&>' | tojson }}{{ messages[0].role.title() }}
"""
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Hi <b> é 😀 "}],
    "system": [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>well</think>\n\nYes."},
        {"role": "user", "content": "banana"},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}],
        },
        {"role": "tool", "content": "rain"},
    ],
    "empty": [],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What it's like",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"]}}},
    },
}


def reference(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    """What transformers renders; None where it refuses or fails."""
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        rendered, _ = chat_template_utils.render_jinja_template([messages], chat_template=source, **TOKENS, **options)
    except Exception:
        return None
    return str(rendered[0])


def mine(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return ChatTemplate(source, TOKENS).render(messages, **options)
    except TemplateError:
        return None


class TestAgreesWithTransformers:
    @pytest.mark.parametrize("chat", CHATS)
    @pytest.mark.parametrize("source", [HEADERS, ALTERNATING, TOOLS], ids=["headers", "alternating", "tools"])
    def test_templates_in_the_style_of_known_models(self, source: str, chat: str) -> None:
        for options in (
            {"add_generation_prompt": True},
            {"add_generation_prompt": False, "tools": [WEATHER, WEATHER]},
            {"add_generation_prompt": True, "date": "1 Jan 2030", "enable_thinking": False},
        ):
            assert mine(source, CHATS[chat], **options) == reference(source, CHATS[chat], **options)

    @pytest.mark.real_model
    @pytest.mark.parametrize("alias", ["smollm2", "qwen_coder"])
    def test_templates_of_real_files(self, alias: str, request: pytest.FixtureRequest) -> None:
        from redline import checkpoint

        path: Path = request.getfixturevalue(alias)
        source = checkpoint.open(str(path)).chat_template
        assert source is not None
        for chat in CHATS.values():
            for tools in (None, [WEATHER]):
                options = {"tools": tools, "add_generation_prompt": True}
                assert mine(source, chat, **options) == reference(source, chat, **options)

    @pytest.mark.parametrize("chat", ["one", "turns"])
    @pytest.mark.parametrize("source", [HEADERS, ALTERNATING])
    def test_continuing_the_last_message(self, source: str, chat: str) -> None:
        theirs = reference(source, CHATS[chat], continue_final_message=True)
        assert theirs is not None
        assert mine(source, CHATS[chat], continue_final_message=True) == theirs

    def test_the_date_of_today(self) -> None:
        assert ChatTemplate("{{ strftime_now('%Y') }}").render([]) == time.strftime("%Y")


class TestMessages:
    ROLES = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    PARTS = "{% for m in messages %}{% for part in m['content'] %}<{{ part.text }}>{% endfor %}{% endfor %}"
    CONTENT = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    def test_parts_become_one_string_unless_the_template_loops_over_them(self) -> None:
        messages = [{"role": "user", "content": self.CONTENT}]
        assert ChatTemplate(self.ROLES).render(messages) == "user=a\nb;"
        assert ChatTemplate(self.PARTS).render(messages) == "<a><b>"
        assert messages[0]["content"] is self.CONTENT, "the caller's messages are left alone"

    def test_a_part_that_is_not_text_is_refused_by_name(self) -> None:
        with pytest.raises(InvalidRequest, match="image_url"):
            ChatTemplate(self.ROLES).render([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])

    def test_arguments_in_a_string_become_the_object(self) -> None:
        template = ChatTemplate("{{ messages[0].tool_calls[0].function.arguments | tojson }}")

        def render(arguments: Any) -> str:
            return template.render([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}])

        assert render('{"a": [1]}') == render({"a": [1]}) == '{"a": [1]}'
        assert render("not JSON") == '"not JSON"'

    def test_only_plain_data_reaches_a_template(self) -> None:
        class Role(StrEnum):
            USER = "user"

        template = ChatTemplate(self.ROLES)
        assert template.render([{"role": Role.USER, "content": "x"}]) == "user=x;"
        for bad in (object(), Path("x"), {1, 2}, b"x"):
            with pytest.raises(InvalidRequest, match="messages\\[0\\]"):
                template.render([{"role": "user", "content": bad}])
        deep: Any = "x"
        for _ in range(100):
            deep = [deep]
        with pytest.raises(InvalidRequest, match="nested"):
            template.render([{"role": "user", "content": "x", "extra": deep}])

    def test_contradictory_options_are_refused(self) -> None:
        messages = [{"role": "assistant", "content": "x"}]
        with pytest.raises(InvalidRequest, match="contradicts"):
            ChatTemplate(self.ROLES).render(messages, add_generation_prompt=True, continue_final_message=True)
        assert ChatTemplate(self.ROLES).render(messages, continue_final_message=True) == "assistant=x"
        for empty in ([], [{"role": "assistant"}], [{"role": "assistant", "content": [{"type": "image"}]}]):
            with pytest.raises(InvalidRequest, match=r"last message|text alone"):
                ChatTemplate(self.ROLES).render(empty, continue_final_message=True)

    def test_a_model_without_a_template_says_so(self) -> None:
        template = ChatTemplate.of_model(None, TOKENS)
        with pytest.raises(TemplateError, match="no chat template") as caught:
            template.render([{"role": "user", "content": "x"}])
        assert "--raw" in caught.value.hint

    def test_a_file_that_the_user_names_goes_before_the_models_own(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.jinja"
        file.write_text("{{ messages[0].content }}!{{ eos_token }}")
        for own in (None, self.ROLES):
            template = ChatTemplate.of_model(own, {"eos_token": "</s>"}, file=str(file))
            assert template.render([{"role": "user", "content": "é"}]) == "é!</s>"
        for wrong, content in (("broken", b"{% if %}"), ("binary", b"\xff\xfe"), ("long", b"x" * (MAX_SOURCE_CHARS + 1))):
            (tmp_path / wrong).write_bytes(content)
            with pytest.raises(TemplateError):
                ChatTemplate.of_model(None, {}, file=str(tmp_path / wrong))
        for missing in (tmp_path / "none", tmp_path):
            with pytest.raises(NotFound) as caught:
                ChatTemplate.of_model(None, {}, file=str(missing))
            assert caught.value.param == "chat_template"

    def test_the_templates_own_refusal_is_passed_on(self) -> None:
        with pytest.raises(TemplateError, match="refused the messages: roles must alternate"):
            ChatTemplate(ALTERNATING).render([{"role": "assistant", "content": "x"}])


ENDLESS = {
    "a loop of a billion": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops in a macro": "{% macro m() %}{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}{% endmacro %}{{ m() }}",
    "a recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that branches": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a recursive loop by name": "{% for x in 'ab' recursive %}{{ loop(iterable='a' * 4000000) if loop.depth < 3 }}{% endfor %}",
    "loop.cycle": "{% for i in range(99999) %}{{ loop.cycle(*range(99999)) }}{% endfor %}",
    "keys that collide": "{{ dict.fromkeys(range(0, 99999 * (2**61 - 1), 2**61 - 1)) }}",
    "unique keys that collide": "{{ range(0, 99999 * (2**61 - 1), 2**61 - 1) | unique | list }}",
}
LARGE = {
    "text times a number": "{{ 'a' * 10**10 }}",
    "a number times a list": "{{ 10**10 * [1] }}",
    "nested lists times a number": "{{ [[[[1]]]] * 100000 }}",
    "a tower of powers": "{{ 9 ** (9 ** 9) }}",
    "a number squared": "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "text doubled": "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "text joined to itself": "{% set s = 'a' * 1000000 %}{{ s ~ s ~ s ~ s ~ s }}",
    "lists in lists": "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "tuples in tuples": "{% set n = namespace(x=1) %}{% for i in range(99) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
    "dicts in dicts": "{% set n = namespace(x={}) %}{% for i in range(99) %}{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}",
    "variable arguments": "{% macro v() %}{{ v(varargs, varargs) }}{% endmacro %}{{ v(1, 2) }}",
    "split": "{{ ('ab ' * 1000000).split() }}",
    "list of characters": "{{ ('a' * 4000000) | list }}",
    "replace method": "{% set s = 'a' * 4000000 %}{{ s.replace('a', s) }}",
    "replace filter": "{% set s = 'a' * 4000000 %}{{ s | replace('a', s) }}",
    "join method": "{% set s = 'a' * 1000000 %}{{ s.join(range(9999) | map('string')) }}",
    "join filter": "{% set s = 'a' * 1000000 %}{{ range(9999) | join(s) }}",
    "join of one text": "{% set s = 'a' * 1000000 %}{{ ([none] * 9999) | map('default', s, true) | join }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent with a star": "{{ '%*d' % (1000000000, 1) }}",
    "many fields": "{{ ('%(a)s' * 9999) % {'a': 'b' * 1000000} }}",
    "str.format": "{{ '{:1000000000}'.format(1) }}",
    "str.format, nested": "{{ '{:{}}'.format(1, 1000000000) }}",
    "str.format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "tojson": "{{ [1] | tojson(indent=10**9) }}",
    "round": "{{ 1 | round(10**9, 'ceil') }}",
    "int of many digits": "{{ ('f' * 4000000) | int(base=16) }}",
    "date": "{{ strftime_now('%1000000000Y') }}",
    "a block": "{% set x %}{% for i in range(99999) %}{{ 'abcdefghij' * 10000 }}{% endfor %}{% endset %}{{ x }}",
    "the output": "{% for i in range(99999) %}{{ 'abcdefghij' * 10 }}{{ messages }}{% endfor %}",
    "static text": "{% for i in range(99999) %}" + "abcdefghij" * 1000 + "{% endfor %}",
    "many copies": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set t = s[1:] %}{% endfor %}",
}
REACHING = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class alone": "{{ {}.__class__ }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "format": "{{ '{0.__class__}'.format('') }}",
    "item": "{{ ''['__class__'] }}",
    "map": "{{ ['']|map(attribute='__class__')|list }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "init": "{{ range.__init__ }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "namespace keys": "{{ namespace(__x=1) }}",
    "context": "{{ self._TemplateReference__context }}",
    "cycler": "{{ cycler.__init__.__globals__ }}",
    "lipsum": "{{ lipsum.__globals__ }}",
    "changing a list": "{{ messages.append(1) }}",
    "changing a dict": "{{ messages[0].update({'a': 1}) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "center filter": "{{ 'x' | center(10**9) }}",
    "bytes": "{{ (1).to_bytes(10**9) }}",
    "encode": "{{ 'a'.encode() }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "extends": "{% extends 'x' %}",
}


STATEMENTS = (
    *(
        "n.a + n.a",
        "[n.a, n.a]",
        "(n.a, n.a)",
        "{'k': n.a}",
        "dict(a=n.a, b=n.a)",
        "n.a ~ n.a",
        "n.a * 99",
        "n.a | string | list",
    ),
    *("n.a | tojson", "n.a | list", "n.a | map('string') | list", "n.a | join('xyz')", "n.a | string | indent(99)", "messages"),
    *(
        "(n.a | string).split('a')",
        "(n.a | string).replace('a', 'bcd' * 99)",
        "n.a[::-1]",
        "'%s%s' % (n.a, n.a)",
        "'ab'",
        "[n.a] * 9",
    ),
    *(
        "n.a if n.a == [n.a] else n.a",
        "n.a | sort | list",
        "n.a | unique | list",
        "'{}{}'.format(n.a, n.a)",
        "n.a | length",
        "n.a | first",
    ),
)


class TestHostileTemplates:
    MESSAGES = CHATS["turns"]

    def ends(self, source: str) -> None:
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(TemplateError):
            ChatTemplate(source, TOKENS, limits=QUICK).render(self.MESSAGES)
        assert time.monotonic() - start < 2.0
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown_mib < 200

    @pytest.mark.parametrize("name", ENDLESS)
    def test_endless_ones_end(self, name: str) -> None:
        self.ends(ENDLESS[name])

    @pytest.mark.parametrize("name", LARGE)
    def test_large_values_are_never_made(self, name: str) -> None:
        self.ends(LARGE[name])

    @pytest.mark.parametrize("name", REACHING)
    def test_nothing_outside_is_reached(self, name: str) -> None:
        self.ends(REACHING[name])

    @pytest.mark.parametrize(
        "source",
        [
            *(
                "{{ x",
                "{% if %}",
                "{% for %}",
                "{% endfor %}",
                "{{ 1/0 }}",
                "{{ nothing.x }}",
                "{{ x | nofilter }}",
                "{% nosuchtag %}",
            ),
            *("{{ " + "(" * 5000 + ")" * 5000 + " }}", "{% if x %}" * 3000, "{{ " + "+".join("1" * 9000) + " }}"),
            *("{% for i in x %}" * 30 + "{% endfor %}" * 30, "{{ 1" + "0" * 9000 + " }}", "{{ x" + "|upper" * 3000 + " }}"),
            "a" * (MAX_SOURCE_CHARS + 1),
        ],
        ids=range(15),
    )
    def test_broken_ones_are_clear_errors(self, source: str) -> None:
        with pytest.raises(TemplateError, match="chat template"):
            ChatTemplate(source, limits=QUICK).render(self.MESSAGES)

    def test_conversations_past_the_limits_are_refused(self) -> None:
        with pytest.raises(TemplateError, match="4194304 characters"):
            ChatTemplate("{{ messages[0].content[0] }}").render([{"role": "user", "content": "x" * (5 << 20)}])

    def test_a_long_honest_conversation_is_rendered(self) -> None:
        chat = [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": "<think>no</think>yes " * 10}] * 500
        for source in (ALTERNATING, HEADERS):
            assert mine(source, chat) == reference(source, chat, add_generation_prompt=True)

    def test_threads_do_not_share_a_clock(self) -> None:
        """A rendering that runs into its limit does not end another one of the same template."""
        template = ChatTemplate(
            "{% for i in range(messages[0].n) %}{% for j in range(99999) %}{% endfor %}{% endfor %}ok", limits=QUICK
        )
        failures: list[str] = []

        def endless() -> None:
            try:
                template.render([{"n": 99999}])
            except TemplateError as error:
                failures.append(str(error))

        thread = threading.Thread(target=endless)
        thread.start()
        assert template.render([{"n": 0}]) == "ok"
        thread.join()
        assert len(failures) == 1 and "0.3 s" in failures[0]

    @given(statements=st.lists(st.sampled_from(STATEMENTS), max_size=12), turns=st.sampled_from((1, 3, 99)))
    @settings(max_examples=50, deadline=None)
    def test_any_mixture_ends(self, statements: list[str], turns: int) -> None:
        body = "{% set n.a = " + " %}{% set n.a = ".join(["n.a", *statements]) + " %}{{ n.a if loop.last }}"
        source = "{% set n = namespace(a='ab') %}{% for i in range(" + str(turns) + ") %}" + body + "{% endfor %}"
        start = time.monotonic()
        try:
            text = ChatTemplate(source, TOKENS, limits=QUICK).render(self.MESSAGES)
            assert len(text) <= QUICK.chars
        except TemplateError:
            pass
        assert time.monotonic() - start < 2.0

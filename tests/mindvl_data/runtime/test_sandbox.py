"""A template of somebody else's ends, whatever it says."""

import time
from itertools import product

import pytest

from mindvl_data.runtime.sandbox import EndlessError, render

NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{{% set n = namespace(x='ab') %}}{{% for i in range(99) %}}{0}{{% endfor %}}{{{{ n.x|length }}}}"
ENDLESS = [
    NESTED,
    "".join(f"{{% for {name} in {[0] * 99} %}}" for name in "abcdefgh") + "{% endfor %}" * 8,
    "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "{% for a in range(99999)|map('abs') %}{% for b in 'x' * 99999 %}{{ b }}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ 10 ** 99999999999 }}",
    "{{ 'ab' * 9999999999 }}",
    "{{ [0] * 9999999999 }}",
    "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    DOUBLED.format("{% set n.x = n.x + n.x %}"),
    DOUBLED.format("{% set n.x = n.x ~ n.x %}"),
    DOUBLED.format("{% set c %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = c %}"),
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_an_end_is_refused(template: str) -> None:
    begun = time.process_time()
    with pytest.raises(EndlessError, match=r"the template (takes|makes|prints) more than|the template makes a"):
        render(template, [{"role": "user", "content": "?"}])
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "1/2,2/2"),
        ("{% for m in messages|reverse if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}", "a"),
        ("{% for k, v in messages[0].items() %}{{ k ~ '=' ~ v ~ missing }};{% endfor %}", "role=user;content=a;"),
        ("{% for n in [[1, [2]]] recursive %}{{ n[0] }}{{ loop(n[1:][0:0]) }}{% endfor %}", "1"),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i * 2 + 1 }}{% endfor %}", "135"),
        ("{{ 2 ** 10 }} {{ 2.0 * 1.5 }} {{ [1] + [2] }} {{ 'a' * 3 }} {{ 1 + true }}", "1024 3.0 [1, 2] aaa 2"),
        ("{% for x in nothing %}{% endfor %}{{ nothing }}|{{ 'a' + 'b' ~ 1 }}", "|ab1"),
    ],
)
def test_others_are_rendered_as_ever(template: str, text: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert render(template, messages).text == text


def test_a_template_may_look_through_all_messages_at_each() -> None:
    template = (
        "{% for a in messages %}{% for b in messages if b.role == 'tool' %}{% endfor %}{{ a.content }}{% endfor %}"
    )
    messages = [{"role": role, "content": "x"} for role, _ in product(("user", "assistant"), range(450))]
    assert render(template, messages).text == "x" * 900

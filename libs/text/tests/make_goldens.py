"""Renders templates/ with Python's own template engine, set up as Hugging Face transformers sets it up, and writes
what comes out to goldens.json. Run after a change of templates/ or cases.json:

    pip install "jinja2==3.1.6"
    python make_goldens.py
"""

import json
import pathlib
from datetime import datetime, timezone

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment(now):
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = now.strftime
    return env


def parse_arguments(messages):
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"] or "{}")
    return messages


def as_parts(messages):
    def parts(content):
        return [] if content is None else [{"type": "text", "text": content}]

    return [{**one, "content": parts(one["content"])} for one in messages]


def main():
    cases = json.loads((HERE / "cases.json").read_text())
    now = datetime.fromtimestamp(cases["now_ms"] / 1000, timezone.utc).replace(tzinfo=None)
    env = environment(now)
    rendered = {}
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = env.from_string(path.read_text())
        rendered[path.stem] = {}
        for name, case in cases["cases"].items():
            if path.stem == "python" and name != "user":
                continue  # it hardly looks at the messages
            messages = parse_arguments(json.loads(json.dumps(case["messages"])))
            context = {
                **case.get("kwargs", {}),
                **cases["special_tokens"],
                "messages": as_parts(messages) if path.stem == "parts" else messages,
                "tools": [cases["tools"][tool] for tool in case["tools"]] if "tools" in case else None,
                "documents": None,
                "add_generation_prompt": case.get("add_generation_prompt", False),
            }
            try:
                result = {"text": template.render(**context)}
            except jinja2.exceptions.TemplateError as error:
                result = {"raised": error.message}
            rendered[path.stem][name] = result
    codes = "%a %A %b %B %c %C %d %D %e %f %F %g %G %h %H %I %j %k %l %m %M %p %P %R %r %S %s %T %u %U %V %w %W %x %X %y %Y %%"
    moments = [0, 951782400000, 1230768000123, 1419984000000, 1793862249250, 4107542399999, 13569465600000]
    goldens = {
        "rendered": rendered,
        "json": [json.dumps(one["value"], **{"ensure_ascii": False, **one.get("options", {})}) for one in cases["json"]],
        "strftime": [
            [ms, code, datetime.fromtimestamp(ms / 1000, timezone.utc).replace(tzinfo=None).strftime(code)]
            for ms in moments
            for code in codes.split()
        ],
    }
    (HERE / "goldens.json").write_text(json.dumps(goldens, indent=1, ensure_ascii=False) + "\n")


main()

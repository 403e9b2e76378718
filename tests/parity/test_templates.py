#!/usr/bin/env python3
"""Chat templates against jinja2 with the settings of Hugging Face's apply_chat_template.

Every template of ../shared/data/templates (skipped with a message when absent), of templates/ here
and every snippet of snippets.txt is rendered byte for byte as jinja2 renders it, for random
conversations; where jinja2 raises we must fail, with the same text when the template raised it.
"""
import datetime
import functools
import json
import pathlib
import random
import subprocess
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RENDER = ROOT / "build/release/bin/render_templates"
SHARED = ROOT.parent / "shared/data/templates"
HERE = pathlib.Path(__file__).resolve().parent
CONVERSATIONS = 400  # of each template


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the model wrote; without tracking it writes its body."""
    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: jinja2.runtime.Macro) -> str:
        return caller()


class Raised(jinja2.TemplateError):
    """By raise_exception."""


@functools.cache
def environment() -> ImmutableSandboxedEnvironment:
    """As transformers.utils.chat_template_utils documents and sets it."""
    def raise_exception(message: str) -> None:
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


WORDS = ["", " ", "\n", "\t", "hello", "world", "<|im_end|>", "</think>", "é", "日本語", "🦙", "a\u0301",
         "\u00a0", "\u2003", "\u3000", "\u2028", "\x85", "\r\n", "{{ x }}", "{% if %}", "'", '"', "\\n",
         "</s>", "[INST]", "\x1c", "&<>", "0", "\x00", "\x7f", "\ufeff", "\u200b"]


def text(rng: random.Random) -> str:
    return "".join(rng.choice(WORDS) + rng.choice(["", "", " ", "\n"]) for _ in range(rng.randrange(6)))


def value(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind >= 7:
        return {rng.choice(["a", "B", "type", "items", "é"]) + str(i): value(rng, depth + 1)
                for i in range(rng.randrange(4))}
    return [None, True, rng.randrange(-5, 10**12), rng.choice([0.5, -1e-7, 1e22, 3.0, 1e16, 123456.789]),
            text(rng), "x"][kind]


def tool(rng: random.Random) -> dict:
    return {"type": "function", "function": {
        "name": rng.choice(["search", "run_code"]), "description": text(rng),
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}},
                       "required": ["query"], "extra": value(rng)}}}


def tool_call(rng: random.Random) -> dict:
    call = {"type": "function", "function": {
        "name": "search", "arguments": {"query": text(rng), "limit": value(rng, 2)}}}
    if rng.random() < 0.7:
        call["id"] = "123456789"[:rng.choice([9, 9, 9, 3])]
    return call


def message(rng: random.Random, role: str) -> dict:
    result = {"role": role, "content": text(rng)}
    if role == "assistant" and rng.random() < 0.25:
        result["tool_calls"] = [tool_call(rng) for _ in range(rng.choice([1, 1, 2]))]
        if rng.random() < 0.5:
            result["content"] = None
    if role == "tool":
        result["tool_call_id"] = "abcdefghi"[:rng.choice([9, 9, 2])]
        if rng.random() < 0.3:
            result["content"] = value(rng)
    if rng.random() < 0.05:
        result["content"] = rng.choice([None, [{"type": "text", "text": text(rng)}, {"type": "image"}]])
    if rng.random() < 0.03:
        del result["content"]
    return result


def conversation(rng: random.Random) -> list[dict]:
    """Mostly what chats look like, sometimes what they should not."""
    messages = [message(rng, "system")] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(4)):
        messages += [message(rng, "user"), message(rng, "assistant")]
        if "tool_calls" in messages[-1] and rng.random() < 0.8:
            messages += [message(rng, "tool"), message(rng, "assistant")]
    if rng.random() < 0.7:
        messages.append(message(rng, "user"))
    if rng.random() < 0.1:
        rng.shuffle(messages)
    if rng.random() < 0.05:
        messages.append(message(rng, rng.choice(["ipython", "developer", "System"])))
    return messages


def variables(rng: random.Random) -> dict:
    result = {"messages": conversation(rng), "add_generation_prompt": rng.random() < 0.5,
              "bos_token": "<s>", "eos_token": "</s>", "documents": None,
              "tools": [tool(rng) for _ in range(rng.randrange(1, 3))] if rng.random() < 0.3 else None}
    if rng.random() < 0.1:
        result["date_string"] = "1 Jan 2026"
    if rng.random() < 0.05:
        result["builtin_tools"] = ["code_interpreter", "brave_search", "search"]
    if rng.random() < 0.05:
        result["tools_in_user_message"] = False
    return result


def cases() -> list[tuple[str, str, dict]]:
    """(name, template, variables)"""
    result = []
    paths = sorted(HERE.glob("templates/*.jinja"))
    if SHARED.is_dir():
        paths += sorted(SHARED.glob("*.jinja"))
    else:
        print(f"skipped: no templates in {SHARED}")
    for path in paths:
        source = path.read_bytes().decode()
        rng = random.Random(path.name)
        result += [(path.name, source, variables(rng)) for _ in range(CONVERSATIONS)]
        for messages in ([], [{"role": "user", "content": ""}], [{"role": "system", "content": ""}]):
            result.append((path.name, source, {"messages": messages, "add_generation_prompt": True,
                                               "tools": None, "bos_token": "", "eos_token": ""}))
    data = json.loads((HERE / "templates/data.json").read_text())
    for line in (HERE / "templates/snippets.txt").read_bytes().decode().split("\n%%\n"):
        result.append((f"snippet {line!r}", line, data))
    return result


@functools.cache
def compiled(source: str) -> jinja2.Template:
    return environment().from_string(source)


def expected(source: str, names: dict) -> tuple[str, str]:
    """("text", rendering), ("raised", message) or ("error", message)."""
    try:
        return "text", compiled(source).render(**names)
    except Raised as error:
        return "raised", str(error)
    except Exception as error:  # whatever Python raises inside a template
        return "error", f"{type(error).__name__}: {error}"


def main() -> None:
    todo = cases()
    lines = "".join(json.dumps({"template": t, "variables": v}) + "\n" for _, t, v in todo)
    done = subprocess.run([RENDER], input=lines.encode(), capture_output=True)
    answers = [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]
    if done.returncode != 0 or len(answers) != len(todo):
        sys.exit(f"render_templates: {len(answers)} of {len(todo)} answers, {done.stderr.decode()}")
    failures = 0
    count = {"text": 0, "raised": 0, "error": 0}
    for (name, source, names), answer in zip(todo, answers):
        kind, wanted = expected(source, names)
        count[kind] += 1
        error = answer.get("error")
        if kind == "text":
            good = answer.get("text") == wanted
        elif kind == "raised":
            good = error is not None and error.split(": ", 1)[1] == wanted
        else:
            good = error is not None
        if good:
            continue
        failures += 1
        if failures <= 20:
            print(f"FAILED {name}\n  variables {json.dumps(names)[:300]}\n  jinja2 {kind} {wanted!r}\n"
                  f"  ours   {answer!r}")
    print(f"{len(todo)} renderings of {len({t for _, t, _ in todo})} templates: {count['text']} texts, "
          f"{count['raised']} refused by the template, {count['error']} errors; {failures} differ")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()

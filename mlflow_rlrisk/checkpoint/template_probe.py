"""Renders a chat template once where it can do no harm: a process with little time and memory.

What it reads beside the turns can be named: a variable that it does not read is refused there.

A template is a program of the checkpoint's author. The sandboxed renderer of transformers keeps it
from Python's internals, but not from looping for ever or from a text of gigabytes. What fails here
for another reason is left to the real renderer, which knows the tokenizer and the prompts.
"""

import json
import subprocess
import sys
from collections.abc import Mapping

from mlflow_rlrisk.errors import CheckpointError

CPU_LIMIT_S = 2
WALL_LIMIT_S = 60.0
MEMORY_LIMIT_BYTES = 1 << 30
MAX_RENDERED = 1 << 20
"""A greeting that renders to a megabyte is no template."""

_PROGRAM = """
import json, resource, sys
cpu, memory, most = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
template, variables = json.loads(sys.stdin.buffer.read())
import jinja2
import jinja2.meta
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

def refuse(message):
    raise jinja2.TemplateError(message)

env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = lambda x, **_: json.dumps(x, ensure_ascii=False)
env.globals.update(raise_exception=refuse, strftime_now=lambda _: "2026-01-01")
user = {"role": "user", "content": "Hello"}
talks = [[user], [{"role": "system", "content": "Be brief."}, user],
         [user, {"role": "assistant", "content": "Hi"}, user]]
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
try:
    compiled = env.from_string(template)
except MemoryError:
    print(json.dumps("takes more memory than a template needs")); sys.exit()
except Exception:
    sys.exit()
known = jinja2.meta.find_undeclared_variables(env.parse(template))
if unread := sorted(variables.keys() - known):
    others = sorted(known - {"messages", "tools", "documents", "add_generation_prompt"})
    read = ", ".join(others) or "none"
    print(json.dumps(f"does not read {', '.join(unread)}; it reads {read}"))
    sys.exit()
for talk in talks:
    try:
        size = 0
        given = {"bos_token": "<s>", "eos_token": "</s>", **variables}
        for piece in compiled.generate(messages=talk, add_generation_prompt=True, tools=None,
                                       documents=None, **given):
            size += len(piece)
            if size > most:
                print(json.dumps("turns a greeting into more than a megabyte")); sys.exit()
    except SecurityError as error:
        print(json.dumps("reaches for Python's internals: " + str(error)[:200])); sys.exit()
    except (MemoryError, OverflowError):
        print(json.dumps("takes more memory than a template needs")); sys.exit()
    except Exception:
        pass
"""


def refuse_hostile_template(
    template: str, variables: Mapping[str, str | int | float | bool] | None = None
) -> None:
    """Render a chat template within limits.

    Args:
        template: Its text.
        variables: What it is given beside the turns.

    Raises:
        CheckpointError: It breaks out, runs for ever, takes too much memory or text, or does not
            read a variable.
    """
    limits = [str(each) for each in (CPU_LIMIT_S, MEMORY_LIMIT_BYTES, MAX_RENDERED)]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, *limits],
            input=json.dumps([template, dict(variables or {})]).encode("ascii"),
            capture_output=True,
            timeout=WALL_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError("its chat template does not end") from error
    if done.returncode < 0:
        raise CheckpointError(f"its chat template does not end within {CPU_LIMIT_S} s of CPU time")
    if done.stdout:
        raise CheckpointError(f"its chat template {json.loads(done.stdout)}")

"""The ``rlrisk`` command: find the command, run it, turn what it raises into one line.

Exit codes are a contract: 0 promote or ok, 1 failure, 2 misuse, 10 block, 11 inconclusive. With
``--json`` standard output is one JSON object; everything for people goes to standard error. An
expected error is one line and has no traceback.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from mlflow_rlrisk import __version__, console
from mlflow_rlrisk.commands.output import FAILURE, INTERRUPTED, MISUSE, OK, print_json
from mlflow_rlrisk.errors import ConfigError, RLRiskError

COMMANDS = {
    "assess": "assessment:assess",
    "compare": "compare:compare",
    "drift": "drift:drift",
    "band": "band:band",
    "rescore": "assessment:rescore",
    "mismatch": "mismatch:mismatch",
    "lookahead": "lookahead:lookahead",
    "monitor": "monitor:monitor",
    "outcome": "outcome:outcome",
    "calibrate": "calibrate:calibrate",
    "judge": "judge:judge",
    "audit-verifier": "audit_verifier:audit_verifier",
    "overlap": "overlap:overlap",
    "serve-vllm": "serve_vllm:serve_vllm",
    "doctor": "doctor:doctor",
    "demo": "demo:demo",
    "keys": "keys:keys",
    "policy": "policy:policy",
    "gate": "gate:gate",
    "verify": "verify:verify",
    "serve": "serve:serve",
    "tokens": "tokens:tokens",
    "webhooks": "webhooks:webhooks",
}
"""Name of a command -> ``module:function`` below ``mlflow_rlrisk.commands``."""


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"mlflow_rlrisk.commands.{module}"), name)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="rlrisk")
def cli() -> None:
    """Which SFT checkpoint may start RL? Evidence-backed verdicts on MLflow model versions."""


def run(argv: Sequence[str] | None = None) -> int:
    """Entry point: run the command and turn expected errors into one line and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=arguments, prog_name="rlrisk", standalone_mode=False)
    except click.exceptions.Abort:
        stopped = "stopped; what is stored stays, and the same command goes on from it"
        code = _fail(arguments, INTERRUPTED, "interrupted", stopped)
    except click.ClickException as error:
        error.show()
        if "--json" in arguments:
            _print_error("misuse", error.format_message())
        code = MISUSE
    except RLRiskError as error:
        exit_code = MISUSE if isinstance(error, ConfigError) else FAILURE
        code = _fail(arguments, exit_code, error.code, str(error))
    except OSError as error:  # a full disk, a folder that may not be read
        code = _fail(arguments, FAILURE, "system", str(error))
    except _store_errors() as error:
        # A database may be MLflow's or the service's; what it says names the place.
        whose = "MLflow" if type(error).__module__.startswith("mlflow") else "database"
        code = _fail(arguments, FAILURE, "system", f"{whose}: {str(error).partition(chr(10))[0]}")
    sys.exit(code if isinstance(code, int) else OK)


def _store_errors() -> tuple[type[Exception], ...]:
    """What MLflow and its database raise where no sink expects it; none where they are not loaded.

    Asked for when something was raised, so that no command has to load them for it.
    """
    known = (("mlflow.exceptions", "MlflowException"), ("sqlalchemy.exc", "SQLAlchemyError"))
    return tuple(getattr(sys.modules[m], name) for m, name in known if m in sys.modules)


def _fail(arguments: Sequence[str], exit_code: int, code: str, message: str) -> int:
    """Say in one line what happened, as JSON too where that was asked for."""
    line = " ".join(message.split())
    console.say(f"rlrisk: {line}")
    if "--json" in arguments:
        _print_error(code, line)
    return exit_code


def _print_error(code: str, message: str) -> None:
    print_json({"error": {"code": code, "message": message}})


if __name__ == "__main__":
    run()

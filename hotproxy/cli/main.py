"""The command `hotproxy`: finds the verb's module, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from typing import Final, NoReturn

import click

from hotproxy.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_NOT_PERMITTED, EXIT_OK, EXIT_REFUSED, HotproxyError
from hotproxy.restarter.log import ERROR, for_stderr

# verb -> (module, name in it, one line for --help). Modules are imported when the verb is called: `hotproxy stats` must
# not pay for the YAML loader.
VERBS: Final[dict[str, tuple[str, str, str]]] = {
    "run": ("hotproxy.cli.run", "run", "Run the proxy in the foreground (what systemd starts)."),
    "proxy": ("hotproxy.cli.proxy", "proxy", "Run a proxy with no config file: --from here --to there."),
    "check": ("hotproxy.cli.check", "check", "Check a config and show every mistake with its place."),
    "validate": ("hotproxy.cli.check", "check", "The same as check."),
    "reload": ("hotproxy.cli.lifecycle", "reload", "Hot restart: new config and new code, nothing lost."),
    "stop": ("hotproxy.cli.lifecycle", "stop", "Drain, close the listeners, go."),
    "drain": ("hotproxy.cli.lifecycle", "drain", "Ask clients to leave, still serving whoever comes."),
    "worker": ("hotproxy.cli.worker", "worker", "`worker recycle N`: replace one worker process."),
    "reopen-logs": ("hotproxy.cli.lifecycle", "reopen_logs", "Open the log files anew (after rotation)."),
    "status": ("hotproxy.cli.status", "status", "Generations, workers and the last restart."),
    "listeners": ("hotproxy.cli.status", "listeners", "The listeners and the addresses they are bound to."),
    "clusters": ("hotproxy.cli.clusters", "clusters", "The clusters, their endpoints and what they count."),
    "config": ("hotproxy.cli.config", "config", "The config as hotproxy understands it."),
    "explain": ("hotproxy.cli.explain", "explain", "Where a request would go, and why."),
    "stats": ("hotproxy.cli.stats", "stats", "All counters, straight from shared memory."),
    "respond": ("hotproxy.cli.respond", "respond", "A tiny origin server for trying things out."),
    "version": ("hotproxy.cli.version", "version", "Versions of everything that matters."),
}


@dataclass(frozen=True, slots=True)
class Globals:
    """What stands before the verb."""

    instance: str
    runtime_dir: str | None


class Verbs(click.Group):
    """Loads a verb's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name, _ = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, _, line) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from hotproxy.cli.version import print_version

        print_version()
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--instance", default="default", metavar="NAME", show_default=True, help="Which proxy on this host.")
@click.option("--runtime-dir", metavar="DIR", help="Where instances keep their sockets and locks.")
@click.option(
    "--version", "-V", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show versions."
)
@click.pass_context
def group(ctx: click.Context, instance: str, runtime_dir: str | None) -> None:
    """hotproxy: a network proxy whose config and code are replaced under load with nothing lost."""
    ctx.obj = Globals(instance, runtime_dir)


def main() -> NoReturn:
    """The console script. Exit codes: docs/cli.md; never a bare traceback."""
    _replace_closed_streams()
    sys.exit(call(sys.argv[1:]))


def _replace_closed_streams() -> None:
    """After `hotproxy run >&-` the next descriptor would be number 1, and get what is meant for stdout."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is `fd`
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def call(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    stdout = sys.stdout
    try:
        result = group.main(args=arguments, prog_name="hotproxy", standalone_mode=False)
        sys.stdout.flush()  # here, where a pipe without a reader or a full disk can still be told
        return result if isinstance(result, int) else EXIT_OK
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except HotproxyError as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except PermissionError as error:
        _say(f"not permitted: {error.strerror}: {error.filename or ''}".rstrip(": "))
        return EXIT_NOT_PERMITTED
    except BrokenPipeError:  # `hotproxy stats | head`, found by the flush above
        _drop_output()
        return EXIT_OK
    except SystemExit as ended:  # from click: shell completion, or a broken pipe that it met itself
        if sys.stdout is not stdout:  # click puts one there that swallows what is left
            _drop_output()
            return EXIT_OK
        return ended.code if isinstance(ended.code, int) else EXIT_OK
    except OSError as error:  # a full disk, a directory that went away: the machine's fault, not ours
        _drop_output()
        _say(": ".join(filter(None, (error.strerror or str(error), error.filename))))
        return EXIT_REFUSED
    except Exception as error:  # our own bug: said as one, with the place, and never a bare traceback
        if os.environ.get("HOTPROXY_TRACEBACK"):
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        _say(
            f"internal error: {type(error).__name__}: {error} (at {place.filename}:{place.lineno}); "
            "HOTPROXY_TRACEBACK=1 shows more"
        )
        return EXIT_INTERNAL


def _drop_output() -> None:
    """What is still buffered goes nowhere: the interpreter would try once more at its end, and exit with 120."""
    with contextlib.suppress(OSError):  # a test's stdout has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str) -> None:
    print(for_stderr(ERROR, f"hotproxy: {message}"), file=sys.stderr)


if __name__ == "__main__":
    main()

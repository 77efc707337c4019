"""The command `grpo`: all commands of this package under one name, `grpo train ...` for `python -m grpo.train ...`.

grpo
grpo train num_generations=8
grpo sample outputs/latest

Also `python -m grpo`. It imports only the module of the command that is typed.
"""

import gc
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "train": "train a policy with GRPO and show what changed",
    "sample": "ask the policy of a run, before and after its training",
    "evaluate": "held-out figures of a policy, with intervals",
    "report": "write the page of a run or of a sweep",
    "audit": "test the rewards with probes before a run",
    "preflight": "ask the policy what the first step of a run would learn from",
    "plan": "the memory and the least time that a run needs",
    "calculator": "a page that scores completions as you edit them",
    "reproduce": "run a finished run again and compare the numbers",
}
COMPLETION_FLAGS = ("--shell-completion", "-sc")


def main() -> None:
    """Run the command that the arguments of this process name."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(help_text())
    elif name == "--version":
        from grpo import __version__

        print(f"grpo {__version__}")
    elif name in COMPLETION_FLAGS:
        complete(arguments)
    elif name not in COMMANDS:
        from grpo.core.console import error_message

        sys.exit(error_message(unknown_command(name)))
    elif arguments[:1] and arguments[0] in COMPLETION_FLAGS:
        complete(arguments[1:])
    else:
        # The name of a file, because Hydra and argparse derive the name of the program from it.
        run(name, str(Path(__file__).with_name(f"{name}.py")), arguments)


def run(name: str, program: str, arguments: list[str]) -> None:
    """Run a command as if its module had been started with these arguments."""
    sys.argv = [program, *arguments]
    import_module(f"grpo.{name}").main()


def complete(arguments: list[str]) -> None:
    """Tab completion of the shell: `install=bash` prints the script for it, `query=bash` is what that script calls.

    Hydra completes the settings of a command; the names of the commands are completed here.
    """
    gc.disable()  # the process ends in half a second
    words = os.environ.get("COMP_LINE", "").split(" ")
    if not (arguments and arguments[0].startswith("query=") and len(words) > 1):
        return run("train", "grpo", ["--shell-completion", *arguments])
    if len(words) == 2:  # the name of the command is being typed
        print("\n".join(COMMANDS))
    elif words[1] in ("train", "evaluate", "audit", "preflight", "plan"):
        os.environ["COMP_LINE"] = " ".join(["grpo", *words[2:]])
        run(words[1], "grpo", ["--shell-completion", *arguments])


def help_text() -> str:
    """The list of commands, at most 80 columns wide."""
    lines = [f"  {name:<12}{purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "GRPO with verifiable rewards: compose a run, train it, see what each reward did.",
            "",
            "usage: grpo COMMAND ...",
            "",
            *lines,
            "",
            "grpo COMMAND --help explains a command; grpo --version prints the version.",
            "python -m grpo.COMMAND is the same as grpo COMMAND.",
            'Tab completion: eval "$(grpo --shell-completion install=bash)", or fish.',
        ]
    )


def unknown_command(name: str) -> str:
    """The message for a word that is no command."""
    if "=" in name:
        return f"error: {name}: a setting follows the name of a command, grpo train {name}"
    close = get_close_matches(name, COMMANDS, n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    return f"error: {name}: there is no such command.{guess} Commands: {', '.join(COMMANDS)}."


if __name__ == "__main__":
    main()

"""The reward calculator: a page on which you edit completions and see the scores that the trainer would give them.

python -m grpo.calculator
python -m grpo.calculator reward_files=[my_rewards.py] +rewards.mine=1     # rewards of your own, scored by Python
python -m grpo.calculator outputs/latest                                   # the completions and rewards of a run
"""

import argparse
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.core.console import error_message
from grpo.core.errors import UserError
from grpo.core.paths import path_argument, run_argument
from grpo.core.process import guard_streams, prepare_process
from grpo.reports.calculator_server import HOST, PAGE, listen

if TYPE_CHECKING:  # imported when there are settings or a run: the page alone needs none of their libraries
    from grpo.reports.calculator_page import Session

PORT = 8008
# The settings and groups of a run that the calculator applies; those that run code need trust.
USED_SETTINGS = {
    "rewards",
    "reward_files",
    "reward_args",
    "reward_timeout",
    "correct_by",
    "data",
    "format",
    "system_prompt",
}
AUDIT_ONLY = ("completions", "probes", "fail_on")  # settings of grpo.audit that the calculator does not have


def can_open() -> bool:
    """Whether a browser with a window can be opened; a text browser would take over this terminal."""
    windows = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in windows)


def is_setting(word: str) -> bool:
    """Whether an argument is a setting; any other is the folder of a run."""
    return word.startswith(("+", "~")) or ("=" in word and not word.startswith("run=") and not os.path.exists(word))


def session_of_settings(settings: Sequence[str], config_dir: Path | None) -> "Session":
    """The stack of rewards that settings describe, as for `grpo.audit`.

    Raises:
        UserError: a mistake in the settings, or a reward cannot be loaded.
    """
    from grpo.config.command_line import check_arguments
    from grpo.config.composition import compose_audit
    from grpo.config.schema import AuditConfig
    from grpo.reports.calculator_page import Session

    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder.")
    for setting in settings:
        if (name := setting.lstrip("+~").partition("=")[0]) in AUDIT_ONLY:
            raise UserError(f"{setting}: {name} is a setting of grpo.audit; the calculator has no such setting.")
    return Session.start(compose_audit(check_arguments(settings, AuditConfig), config_dir))


def session_of_run(run: Path, trusted: bool) -> "Session":
    """The stack of rewards of a run, with its completions.

    Raises:
        UserError: the folder holds no run, or it would run code and is not trusted.
    """
    from grpo.reports.calculator_page import Session
    from grpo.runs.run_dir import resolve_link
    from grpo.runs.settings import read_config, read_settings
    from grpo.runs.trust import require_trust

    folder, advice = resolve_link(run), "If you trust whoever made it, add --trust-run."
    require_trust(folder, read_settings(folder), advice=advice, settings_used=USED_SETTINGS, trusted=trusted)
    return Session.start(read_config(folder), folder)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m grpo.calculator",
        usage="%(prog)s [flags] [run | setting ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Edit completions in the browser and see their scores as the trainer computes\n"
        "them: each reward and its reason, the advantages of a group, and the share of\n"
        "each reward.\n\n"
        "  python -m grpo.calculator\n"
        "      the built-in stacks, default and verbatim\n"
        "  python -m grpo.calculator outputs/latest\n"
        "      the completions of a run, step by step, with its rewards and weights\n"
        "  python -m grpo.calculator reward_files=[my_rewards.py] +rewards.mine=1\n"
        "      a stack of your own, scored by Python",
        epilog="The page with the built-in stacks is one file, which needs no server: open it\n"
        f"from disk, or host it.\n  {PAGE}\n\n"
        f"On another machine: ssh -L {PORT}:{HOST}:{PORT} MACHINE\nthen open the printed address here.\n\n"
        "docs/calculator.md explains the page.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="run | setting ...",
        help="the folder of a run; or settings of rewards, as for grpo.audit: rewards=, reward_files=, format=, "
        "data.answer=, correct_by=, reward_args., reward_timeout=",
    )
    parser.add_argument("--config-dir", type=path_argument, metavar="FOLDER", help="a folder of your own config groups")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; if it is taken, the next free port")
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    parser.add_argument("--trust-run", action="store_true", help="run the code of a folder that somebody else made")
    arguments = parser.parse_intermixed_args()
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port}: a port is a number from 0 (any that is free) to 65535")
    arguments.settings = [word for word in arguments.words if is_setting(word)]
    runs = [word for word in arguments.words if word not in arguments.settings]
    if len(runs) > 1 or (runs and arguments.settings):
        parser.error(f"{' '.join(arguments.words)}: give one folder of a run, or settings; a run has its own settings")
    try:
        arguments.run = run_argument(runs[0]) if runs else None
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    return arguments


def serve(arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: a mistake in the settings, or no port is free.
    """
    session: Session | None = None
    if arguments.run is not None:
        session = session_of_run(arguments.run, arguments.trust_run)
    elif arguments.settings:
        session = session_of_settings(arguments.settings, arguments.config_dir)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it also ends the process of the rewards
    try:
        with listen(arguments.port, session) as server:
            address = f"http://{HOST}:{server.server_address[1]}/"
            if session is not None:
                address += f"?token={session.token}"
                for line in session.notes():
                    print(line, flush=True)
            print(f"The calculator is at {address} (Ctrl-C to stop)", flush=True)
            if not arguments.no_browser and can_open():
                threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
            server.serve_forever()
    finally:
        if session is not None:
            session.scoring.close()


def main() -> None:
    guard_streams()
    arguments = parse_arguments()
    try:
        prepare_process()
        serve(arguments)
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()

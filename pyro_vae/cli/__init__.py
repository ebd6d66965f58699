"""The command line: ``pyro-vae`` and ``python -m pyro_vae``. It imports torch only when a command runs.

Exit codes: 0 done; 1 the command could not do what was asked, and said why on standard error; 2 wrong usage; 130
interrupted. Results go to standard output, all else to standard error.

To add a command, write a function in one of the files here, or a new one, and put it into the list in ``app.py``:

    def count(run: RunFolder, split: Split = "test", json: Json = False, trust_code: TrustCode = False) -> None:
        \"\"\"Count the data of a run: this line, and what follows it, is the command's help.\"\"\"
        with opened(run, trust_code=trust_code) as trained:
            number = len(choose(trained, None, split, None))
        show({"num_data": number}, f"{number} data", as_json=json)

Its parameters are the command line: typer reads names, types and defaults, ``options.py`` has those that many share.
Import torch and what needs it inside the function. Raise ``ValueError(say(expected, got, remedy))`` on wrong input: it
is printed, and the exit code is 1. Its test is ``CliRunner().invoke(app, ["count", folder, "--json"])``, as in
``tests/runs/test_cli.py``.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Run the command line; Ctrl-C at any moment, also while libraries are loading, ends it with code 130."""
    pressed = False

    def interrupt(*_: Any) -> None:
        nonlocal pressed
        said, pressed = pressed, True
        if not said:  # a second one would interrupt the cleaning up
            print("interrupted", file=sys.stderr)
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is for what a shell runs in the background
        signal.signal(signal.SIGINT, interrupt)
    try:
        from pyro_vae.cli.app import app

        app(prog_name="pyro-vae")
    except BaseException:
        if pressed:  # whatever became of it on its way through other libraries
            raise SystemExit(130) from None
        raise

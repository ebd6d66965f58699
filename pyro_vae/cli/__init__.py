"""The command line: ``pyro-vae`` and ``python -m pyro_vae``. It imports torch only when a command runs.

Exit codes: 0 done; 1 the command could not do what was asked, and said why on standard error; 2 wrong usage; 130
interrupted. Results go to standard output, all else to standard error.
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

"""How every script of the project reports bad input: one sentence and exit code 2."""

import contextlib
import errno
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

from machine.shortage import shortage
from options.words import FlagParser


class CommandLine(FlagParser):
    """A script's flags; one that is wrong is a sentence and exit code 2, as all else, and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        message = f"{message.removeprefix('argument ')}{self.suggestion(message)}"
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors about what the user gave (files, names, flags) into one line on stderr and exit code 2.

    Ctrl-C is a line and exit code 130, what is finished being kept, and warnings are one line each, too. Names that the
    terminal's encoding lacks are printed by their code points.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # else somebody catches what is printed
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    except KeyboardInterrupt as stop:
        traceback.clear_frames(stop.__traceback__)
        print("stopped by Ctrl-C; every file that was written is whole", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = shortage(error) or (_sentence(error) if isinstance(error, ValueError | OSError) else None)
        if isinstance(error, RuntimeError) and str(error).startswith(("Symlink loop", "Could not determine home")):
            sentence = f"{error}; mend the link, or give another path"  # of pathlib
        if sentence is None:
            raise
        traceback.clear_frames(error.__traceback__)  # progress bars are closed, and loader processes end in order
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: Exception) -> str:
    """What an error says; what a loader process passes on comes without the traceback that torch puts around it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (f"{error.filename or 'a disk, or /dev/shm'}: no space left; free some, choose another folder, or give "
                "--n_threads 0")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another path, or look at its permissions"
    lines = str(error).strip().splitlines()
    wrapped = len(lines) > 1 and "DataLoader worker process" in lines[0]
    return lines[-1].partition(": ")[2] if wrapped else str(error)

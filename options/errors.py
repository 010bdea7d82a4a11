"""How every script of the project reports bad input: one sentence and exit code 2."""

import argparse
import contextlib
import errno
import sys
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import NoReturn


class CommandLine(argparse.ArgumentParser):
    """A script's flags; one that is wrong is a sentence and exit code 2, as all else, and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message.removeprefix('argument ')}; see {self.prog} --help\n")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors about what the user gave (files, names, flags) into one line on stderr and exit code 2.

    Warnings are one line each, too.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    except (ValueError, OSError) as error:
        traceback.clear_frames(error.__traceback__)  # progress bars are closed, and loader processes end in order
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)
    except BrokenProcessPool:
        print("error: a process ended abruptly, for want of memory perhaps; start again with a smaller --n_jobs or "
              "--n_threads, what is finished is kept", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if str(error).startswith(("Symlink loop", "Could not determine home")):  # of pathlib
            print(f"error: {error}; mend the link, or give another path", file=sys.stderr)
            sys.exit(2)
        if type(error).__name__ != "OutOfMemoryError":  # of torch, which not every script imports
            raise
        print("error: the GPU has too little memory for this; give a smaller --batch_size (of inference "
              "--inference_batch_size), or --no_cuda", file=sys.stderr)
        sys.exit(2)


def _sentence(error: Exception) -> str:
    """What an error says; what a loader process passes on comes without the traceback that torch puts around it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.filename or 'the disk'}: no space left; free some, or write to another folder"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another path, or look at its permissions"
    lines = str(error).strip().splitlines()
    wrapped = len(lines) > 1 and "DataLoader worker process" in lines[0]
    return lines[-1].partition(": ")[2] if wrapped else str(error)

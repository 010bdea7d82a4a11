"""How every script of the project reports bad input: one sentence and exit code 2."""

import contextlib
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors about what the user gave (files, names, flags) into one line on stderr and exit code 2.

    Warnings are one line each, too.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

"""Calls in a forked process whose files may not grow, as on a full disk, or with few open files or little memory."""

import contextlib
import os
import resource
import sys
import traceback
from collections.abc import Callable

from processes import Ended

from options.errors import user_errors


def limit(what: int, n: int) -> Callable[[], None]:
    """Sets a limit of `resource` for good; to be called in the child."""
    return lambda: resource.setrlimit(what, (n, n))


def in_child(work: Callable[[], object], before: Callable[[], None] = lambda: None) -> Ended:
    """Call `before()` and then `work()` as a script in a forked process."""
    reading, writing = os.pipe()  # a limit of file sizes is none of pipes
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reading)
            sys.stdout = sys.stderr = os.fdopen(writing, "w", buffering=1)
            before()
            try:
                with user_errors():
                    work()
                code = 0
            except SystemExit as ended:
                code = ended.code
            except BaseException:
                traceback.print_exc()
            with contextlib.suppress(OSError):
                sys.stdout.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        said = pipe.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)


def sentence(ended: Ended) -> str:
    """The one sentence of a call that ended with exit code 2."""
    errors = [line for line in ended.said.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert ended.code == 2 and "Traceback" not in ended.said and len(errors) == 1, ended.said
    return errors[0]

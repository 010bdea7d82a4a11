"""Fetch one file of a project from where pip is set to look, without running or installing any of it.

As a script: `python -P models/pip_fetch.py PROJECT FILE SHA256 TARGET` writes TARGET and prints one line of JSON: "url"
and "sha256" of the file, or "error", or "full" where the disk is. Where there are several files of that name, the first
with the right sum is taken; without any, "url" and "sha256" are those of the last that can be read. pip's commands,
`download` and `install --dry-run` too, run the setup of a source archive to learn its dependencies. So pip's own finder
and session are asked here, which follow all that pip is set to: indices, folders of files, proxies, certificates and
passwords. They are no public interface, hence the script of its own: where a pip has other ones, only the fetching
fails, and says so.
"""

import errno
import hashlib
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Reasons(logging.Handler):
    """Keeps what pip says of places that it could not read."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Could not fetch"):
            self.lines.append(record.getMessage().removesuffix(" - skipping"))


def fetch(project: str, file: str, sha256: str, target: Path) -> dict[str, str]:
    """Write a project's file of this name to `target`; {"url", "sha256"} of it, the URL without passwords.

    Raises:
        LookupError: where pip finds no such file that can be read, saying why. OSError: where the disk is full.
        Whatever pip raises besides.
    """
    from pip._internal.commands import create_command
    from pip._internal.network.utils import HEADERS, raise_for_status, response_chunks
    from pip._internal.utils.misc import redact_auth_from_url

    reasons, log = _Reasons(), logging.getLogger("pip._internal.index.collector")
    log.addHandler(reasons)
    log.setLevel(logging.DEBUG)
    command = create_command("download")
    options, _ = command.parse_args(["--no-input", "--no-binary", project, project])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session, ignore_requires_python=True)
        urls = dict.fromkeys(candidate.link.url_without_fragment for candidate in finder.find_all_candidates(project)
                             if candidate.link.filename == file)
        fetched = None
        for url in urls:
            try:
                response = session.get(url, headers=HEADERS, stream=True)
                raise_for_status(response)
                total = _write(response_chunks(response), target)
            except Exception as error:  # of a dozen kinds; the next may do
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                reasons.lines.append(f"{redact_auth_from_url(url)}: {error}")
                continue
            fetched = {"url": redact_auth_from_url(url), "sha256": total}
            if total == sha256:
                break
        if fetched is None:
            raise LookupError("; ".join(dict.fromkeys(reasons.lines)) or "where pip is set to look there is none")
        return fetched


def _write(chunks: Iterable[bytes], path: Path) -> str:
    """Write a file, and return its SHA-256."""
    total = hashlib.sha256()
    with path.open("wb") as out:
        for chunk in chunks:
            out.write(chunk)
            total.update(chunk)
    return total.hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        print("error: give PROJECT FILE SHA256 TARGET: a project on PyPI, the name and the sum of a file of it, and "
              "where to write it", file=sys.stderr)
        sys.exit(2)
    try:
        answer = fetch(*sys.argv[1:4], Path(sys.argv[4]))
    except (ImportError, AttributeError, TypeError) as error:
        answer = {"error": f"pip is missing here, or its version is not supported: {error}"}
    except Exception as error:  # of a dozen kinds
        full = isinstance(error, OSError) and error.errno in FULL
        answer = {"full" if full else "error": (error.strerror if full else f"{error}") or type(error).__name__}
    print(json.dumps(answer))

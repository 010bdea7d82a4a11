"""Fetch one file of a project from where pip is set to look, without running or installing any of it.

As a script: `python -P models/pip_fetch.py PROJECT FILE TARGET` writes TARGET and prints one line of JSON: {"url"} of
the file, or {"error"}. pip's commands, `download` and `install --dry-run` too, run the setup of a source archive to
learn its dependencies. So pip's own finder and session are asked here, which follow all that pip is set to: indices,
folders of files, proxies, certificates and passwords. They are no public interface, hence the script of its own: where
a pip has other ones, only the fetching fails, and says so.
"""

import json
import logging
import sys
from pathlib import Path


class _Reasons(logging.Handler):
    """Keeps what pip says of places that it could not read."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Could not fetch"):
            self.lines.append(record.getMessage().removesuffix(" - skipping"))


def fetch(project: str, file: str, target: Path) -> str:
    """Write a project's file of this name to `target`, and return the URL that it is from, without passwords.

    Raises:
        LookupError: where pip finds no such file, saying why. Whatever pip raises besides.
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
        links = [candidate.link for candidate in finder.find_all_candidates(project)
                 if candidate.link.filename == file]
        if not links:
            raise LookupError("; ".join(dict.fromkeys(reasons.lines)) or "where pip is set to look there is none")
        response = session.get(links[0].url_without_fragment, headers=HEADERS, stream=True)
        raise_for_status(response)
        with target.open("wb") as out:
            for chunk in response_chunks(response):
                out.write(chunk)
        return redact_auth_from_url(links[0].url_without_fragment)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        print("error: give PROJECT FILE TARGET: a project on PyPI, the name of a file of it, and where to write it",
              file=sys.stderr)
        sys.exit(2)
    try:
        answer = {"url": fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]))}
    except (ImportError, AttributeError, TypeError) as error:
        answer = {"error": f"this environment has no pip, or one of other make: {error}"}
    except Exception as error:  # of a dozen kinds
        answer = {"error": f"{error}" or type(error).__name__}
    print(json.dumps(answer))

"""How names of classes and videos are compared everywhere: without case, blanks and punctuation."""

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
_DROPPED = ("P", "Z", "Cc", "Cf")  # general categories: punctuation, blanks, control characters, joiners and marks


class _Letters(dict[int, str]):
    """Character -> itself where names are compared by it, else a blank; each is looked up once."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        dropped = category.startswith(_DROPPED) or 0xFE00 <= code <= 0xFE0F  # selects the look of the one before
        # Symbols of ASCII count as punctuation; others, such as emoji, can be all that a name consists of.
        dropped |= code < 128 and not character.isalnum()
        self[code] = " " if dropped else character
        return self[code]


_LETTERS = _Letters()
_BETWEEN_DIGITS = re.compile(r"(?<=\d) +(?=\d)")


def normalise(name: str) -> str:
    """A name as it is compared: without case, blanks, punctuation and underscores, accents composed (NFKC).

    Between two digits one `.` stays for what is dropped there, because `1_12` and `11_2` are two videos. A name of
    nothing but punctuation stays as it is.
    """
    if name.isascii():
        folded = name.lower()
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    letters = folded.translate(_LETTERS)
    if " " in letters:
        letters = _BETWEEN_DIGITS.sub(".", letters).replace(" ", "")
    return letters or name


class AmbiguousName(ValueError):
    """A name that fits several others, which differ from each other in nothing that is compared."""

    def __init__(self, name: str, others: list[str]) -> None:
        super().__init__(f"{name!r} could be {' or '.join(map(repr, others[:3]))}, for case, blanks and punctuation do "
                         "not count; spell it like one of them, or rename these")
        self.name, self.others = name, others

    def __reduce__(self) -> tuple:
        return AmbiguousName, (self.name, self.others)


class Names(Generic[T]):
    """Things by their names: an exact name wins over one that differs in case, blanks or punctuation.

    Args:
        things: by name; names that differ only in what is not compared are told apart by their exact spelling.
    """

    def __init__(self, things: Mapping[str, T]) -> None:
        self.things = things
        self._spellings: dict[str, list[str]] | None = None  # made when a name is not found exactly

    def spellings(self, name: str) -> list[str]:
        """The names that are equal to a name as `normalise` compares them, in their order."""
        if self._spellings is None:
            self._spellings = {}
            for other in self.things:
                self._spellings.setdefault(normalise(other), []).append(other)
        return self._spellings.get(normalise(name), [])

    def find(self, name: str) -> T | None:
        """The thing of a name, None where there is none.

        Raises:
            AmbiguousName: where no name is exactly this one and several are equal to it.
        """
        if name in self.things:
            return self.things[name]
        spellings = self.spellings(name)
        if len(spellings) > 1:
            raise AmbiguousName(name, spellings)
        return self.things[spellings[0]] if spellings else None

    def nearest(self, name: str, n: int = 3) -> list[str]:
        """The n names that are most like a name."""
        self.spellings(name)
        near = difflib.get_close_matches(normalise(name), self._spellings, n=n, cutoff=0)
        return [self._spellings[key][0] for key in near]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.things or bool(self.spellings(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.things)

    def __len__(self) -> int:
        return len(self.things)

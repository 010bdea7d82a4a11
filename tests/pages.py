"""What a browser would make of a page, without one."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """What a browser would make of a page, as far as it is asked here."""

    VOID = {"meta", "img", "source", "br", "input"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.links, self.images, self._open = "", [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        if tag == "a":
            self.links.append(attrs["href"])
        if tag == "img":
            assert attrs["alt"].strip(), "an image without words"
            self.images.append(attrs["src"])
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.text += data

    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)

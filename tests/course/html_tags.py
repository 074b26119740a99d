"""What tests of interactive pictures share: a reader of HTML that notices tags which are not closed."""

from html.parser import HTMLParser

VOID = {"input", "img", "br"}  # nothing closes these


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.wrong = [], [], []

    def handle_starttag(self, tag, attributes):
        self.open += [tag] if tag not in VOID else []
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def parsed(text):
    tags = Tags()
    tags.feed(text)
    return tags

"""Words become ids, one per word (slide S02)."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

PAD, END, IMAGE = "<pad>", "<end>", "<image>"
_WORD = re.compile(r"<image>|<end>|\w+(?:['’-]\w+)*|[^\w\s]")


class Tokenizer:
    """One id per word, per punctuation mark, and for the placeholder ``<image>``; capital letters matter.

    Source:
        Slide S02, whose question it reads.

    >>> tokenizer = Tokenizer.from_texts(["What is in this image <image>? Answer:", "a red star"])
    >>> ids = tokenizer.encode("a red image <image>?")
    >>> ids, tokenizer.decode([*ids, 1])
    ([7, 11, 8, 2, 4], 'a red image <image>?')
    """

    pad_id, end_id, image_id = 0, 1, 2

    def __init__(self, words: Sequence[str]) -> None:
        if not all(isinstance(word, str) for word in words):
            raise TypeError(f"words must be strings, received {words!r:.80}")
        words = [unicodedata.normalize("NFC", word) for word in words]
        if cut := [word for word in words if word != PAD and _words(word) != [word]]:
            raise ValueError(f"words must each be one word or one mark, received {cut[0]!r}, cut into {_words(cut[0])}")
        self.words = tuple(dict.fromkeys((PAD, END, IMAGE, *words)))  # each once
        self._id_of = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Tokenizer":
        """Return a tokenizer that knows every word of ``texts``, in alphabetical order."""
        if isinstance(texts, str):
            raise TypeError("texts must be several strings, received one; try [text]")
        return cls(sorted({word for text in texts for word in _words(text)}))

    def encode(self, text: str) -> list[int]:
        """Return the id of each word, below ``len(tokenizer)``; an unknown word raises ValueError."""
        words = _words(text)
        unknown = dict.fromkeys(word for word in words if word not in self._id_of)
        if unknown:
            near = {word: get_close_matches(word, self.words[3:], n=3, cutoff=0.5) for word in unknown}
            hints = [f"{word!r} (near: {', '.join(known)})" if known else repr(word) for word, known in near.items()]
            raise ValueError(f"text has words that this tokenizer does not know: {', '.join(hints)}")
        return [self._id_of[word] for word in words]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words that ``ids`` stand for, joined; padding and end leave no trace."""
        numbers = [int(number) for number in ids]
        if any(not 0 <= number < len(self) for number in numbers):
            raise ValueError(f"ids must be from 0 to {len(self) - 1}, received {numbers}")
        words = [self.words[number] for number in numbers if number not in (self.pad_id, self.end_id)]
        return re.sub(r" ([.,:;!?])", r"\1", " ".join(words))

    def __len__(self) -> int:
        return len(self.words)


def _words(text: str) -> list[str]:
    """Cut a text into words; an accent that follows its letter is joined to it."""
    return _WORD.findall(unicodedata.normalize("NFC", text))

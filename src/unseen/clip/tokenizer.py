"""From sentences to token ids: OpenAI's byte-pair vocabulary, or a closed list of words."""

import difflib
import gzip
import html
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Protocol, runtime_checkable

import ftfy
import regex
import torch
from jaxtyping import Int
from torch import Tensor

from unseen.errors import InputError
from unseen.vocabulary import MULTI_TEMPLATES


@runtime_checkable
class Tokenizer(Protocol):
    """Sentences → rows of ids, zero-padded, the end-of-text id being the highest of all."""

    context_length: int

    def __call__(self, sentences: Sequence[str]) -> Int[Tensor, "N L"]: ...


def _pad(rows: Iterable[list[int]], sentences: Sequence[str], length: int) -> Int[Tensor, "N L"]:
    ids = torch.zeros(len(sentences), length, dtype=torch.long)
    for i, (row, sentence) in enumerate(zip(rows, sentences, strict=True)):
        if len(row) > length:
            shown = sentence if len(sentence) <= 60 else sentence[:57] + "…"
            raise InputError(
                f"a label may take {length} tokens with its sentence around it, but {shown!r} "
                f"({len(sentence.split())} words) takes {len(row)}: shorten it"
            )
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def _byte_symbols() -> dict[int, str]:
    """Return a printable character for each byte, in the order of the vocabulary's first 256 ids.

    Bytes that print stand for themselves and come first; the others follow, written with the
    characters from 256 on (as GPT-2's vocabulary does).
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(hidden)
    }


_PIECES = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_NUM_MERGES = 49152 - 256 - 2  # the file holds more lines; CLIP's vocabulary stops here


class BytePairTokenizer:
    """OpenAI's tokenizer for CLIP: 49,408 ids, lower case, text repaired by ftfy."""

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        data = (files("unseen.clip") / "bpe_vocabulary.txt.gz").read_bytes()
        lines = gzip.decompress(data).decode("utf-8").split("\n")[1 : _NUM_MERGES + 1]
        merges = [tuple(line.split()) for line in lines]
        self._byte_symbol = _byte_symbols()
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        symbols = list(self._byte_symbol.values())
        vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
        vocabulary += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
        self._id = {symbol: i for i, symbol in enumerate(vocabulary)}
        self._merge = lru_cache(maxsize=65536)(self._merge_piece)

    def __call__(self, sentences: Sequence[str]) -> Int[Tensor, "N L"]:
        rows = (self.encode(sentence) for sentence in sentences)
        return _pad(rows, sentences, self.context_length)

    def encode(self, sentence: str) -> list[int]:
        """Return the ids of a sentence from start to end of text, unpadded."""
        text = html.unescape(html.unescape(ftfy.fix_text(sentence)))
        text = " ".join(text.split()).lower()
        ids = [self._id["<|startoftext|>"]]
        for piece in _PIECES.findall(text):
            ids += self._merge(piece)
        return [*ids, self._id["<|endoftext|>"]]

    def _merge_piece(self, piece: str) -> tuple[int, ...]:
        if piece in ("<|startoftext|>", "<|endoftext|>"):
            return (self._id[piece],)
        symbols = [self._byte_symbol[byte] for byte in piece.encode("utf-8")]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            best = min(pairs, key=lambda pair: self._rank.get(pair, len(self._rank)))
            if best not in self._rank:
                break
            merged, i = [], 0
            while i < len(symbols):
                if tuple(symbols[i : i + 2]) == best:
                    merged.append("".join(best))
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            symbols = merged
        return tuple(self._id[symbol] for symbol in symbols)


class WordTokenizer:
    """A closed vocabulary of whole words, lower case, punctuation dropped.

    Args:
        words: the known words; their position decides their id.
        context_length: tokens in a row, start and end of text included.
        note: what a user is told beside the nearest known words when a word is unknown.
    """

    def __init__(self, words: Sequence[str], context_length: int, note: str = "") -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self.note = note
        self._id = {word: i + 2 for i, word in enumerate(self.words)}
        self._end = len(self.words) + 2

    @property
    def vocab_size(self) -> int:
        """Number of ids: padding, start, the words, end."""
        return self._end + 1

    def __call__(self, sentences: Sequence[str]) -> Int[Tensor, "N L"]:
        rows = ([1, *map(self._look_up, self._split(s)), self._end] for s in sentences)
        return _pad(rows, sentences, self.context_length)

    @staticmethod
    def _split(sentence: str) -> list[str]:
        return regex.findall(r"[\p{L}\p{N}]+", sentence.lower())

    def _look_up(self, word: str) -> int:
        if word not in self._id:
            sentences = " ".join(MULTI_TEMPLATES).lower().replace(".", "").split()
            names = [known for known in self.words if known not in (*sentences, "and", "with")]
            near = difflib.get_close_matches(word, names, n=3, cutoff=0.0)
            raise InputError(
                f"this model does not know the word {word!r}; the nearest it knows: "
                f"{', '.join(near)}. {self.note}"
            )
        return self._id[word]

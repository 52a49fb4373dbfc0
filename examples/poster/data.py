"""The data sets: downloaded or read from a folder, and verified before use."""

import dataclasses
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from examples._data import DataError, RawSplit, load_idx

VALIDATION_SHARE = 6  # one image of so many, cut from the training set
SPLIT_SEED = 2022  # part of the rule that selects strengths, not of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What a data set has to be, and where it can be had."""

    title: str
    n_classes: int
    counts: tuple[int, int]  # images for training, for testing
    shape: tuple[int, int, int]
    mean: tuple[float, ...]  # of the pixels of each channel, on a scale from 0 to 1
    deviation: tuple[float, ...]
    augmented: bool
    # MD5 sums of the files that are read, and of those below the address.
    checksums: Mapping[str, str] = dataclasses.field(compare=False)
    url: str = ""
    downloads: Mapping[str, str] = dataclasses.field(
        default_factory=dict, compare=False
    )


class Split(NamedTuple):
    """Images and their labels."""

    images: jax.Array | np.ndarray  # uint8 (n, height, width, channels)
    labels: jax.Array | np.ndarray  # int32 (n,)


class Dataset(NamedTuple):
    """A data set to train on, and one to measure accuracy on."""

    spec: Spec
    train: Split
    test: Split


# Normalized like MNIST, as in the authors' code.
_GRAY = {"mean": (0.1307,), "deviation": (0.3081,), "augmented": False}
# The usual constants; those of the authors are unknown.
_CIFAR_10 = {
    "n_classes": 10,
    "counts": (50_000, 10_000),
    "shape": (32, 32, 3),
    "mean": (0.4914, 0.4822, 0.4465),
    "deviation": (0.2470, 0.2435, 0.2616),
    "augmented": True,
}
_BATCHES = "cifar-10-batches-py"

SPECS = {
    "mnist": Spec(
        title="MNIST",
        n_classes=10,
        counts=(60_000, 10_000),
        shape=(28, 28, 1),
        **_GRAY,
        checksums={
            "train-images": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels": "a25bea736e30d166cdddb491f175f624",
            "t10k-images": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
        },
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        downloads={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": Spec(
        title="Fashion-MNIST",
        n_classes=10,
        counts=(60_000, 10_000),
        shape=(28, 28, 1),
        **_GRAY,
        checksums={
            "train-images": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels": "15d484375f8d13e6eb1aabb0c3f46965",
        },
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        downloads={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Spec(
        title="CIFAR-10",
        **_CIFAR_10,
        checksums={
            f"{_BATCHES}/data_batch_1": "c99cafc152244af753f735de768cd75f",
            f"{_BATCHES}/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            f"{_BATCHES}/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            f"{_BATCHES}/data_batch_4": "634d18415352ddfa80567beed471001a",
            f"{_BATCHES}/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            f"{_BATCHES}/test_batch": "40351d587109b95175f43aff81a1287e",
        },
        url="https://www.cs.toronto.edu/~kriz/",
        downloads={"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
    ),
    # Re-encoded as JPEG of quality 75: nearly CIFAR-10, but not bit by bit.
    "cifar10_jpeg75": Spec(title="CIFAR-10 (JPEG-75)", **_CIFAR_10, checksums={}),
    "cifar100": Spec(
        title="CIFAR-100",
        n_classes=100,
        counts=(50_000, 10_000),
        shape=(32, 32, 3),
        mean=(0.5071, 0.4865, 0.4409),
        deviation=(0.2673, 0.2564, 0.2762),
        augmented=True,
        checksums={
            "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
            "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        },
        url="https://www.cs.toronto.edu/~kriz/",
        downloads={"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
    ),
}


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load one of SPECS from a folder, or download it.

    Args:
      name: Of the data set.
      data_dir: Folder of the idx files, gzipped or not (MNIST, Fashion-MNIST); of the
        official Python archive, unpacked or not (CIFAR); the file of cifar10_jpeg75.
        Without it the files are downloaded into the user's cache, once.

    Raises:
      DataError: A file is missing or not the one that it should be.
    """
    spec = SPECS[name]
    if data_dir is None:
        data_dir = download(name)
    if name == "cifar10_jpeg75":
        raw = _load_jpegs(data_dir)
    elif spec.shape[-1] == 1:
        raw = load_idx(data_dir, name)
        _verify_idx(spec, raw, data_dir)
    else:
        raw = _load_cifar(spec, data_dir)
    splits = []
    for (images, labels), count in zip(raw, spec.counts, strict=True):
        images = images.reshape(len(images), *spec.shape)
        if (len(images), len(labels)) != (count, count):
            raise DataError(
                f"{data_dir}: expected {count} images and labels of {spec.title}, got "
                f"{len(images)} and {len(labels)}."
            )
        splits.append(Split(images, labels.astype(np.int32)))
    return Dataset(spec, *splits)


def hold_out(data: Dataset) -> Dataset:
    """Return the training set alone, in two parts: to train on and to validate on."""
    n = len(data.train.labels)
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    validation, rest = np.split(order, [n // VALIDATION_SHARE])
    return Dataset(
        data.spec,
        train=Split(*(x[rest] for x in data.train)),
        test=Split(*(x[validation] for x in data.train)),
    )


def download(name: str) -> Path:
    """Download the files of a data set, unless they are there, and verify them."""
    # Imported here, so that local files do without it.
    import pooch

    spec = SPECS[name]
    if not spec.downloads:
        raise DataError(f"{spec.title} cannot be downloaded: pass --data-dir FILE.")
    folder = Path(pooch.os_cache("rmda_jax")) / name
    for file, checksum in spec.downloads.items():
        try:
            _ = pooch.retrieve(
                spec.url + file, known_hash=f"md5:{checksum}", fname=file, path=folder
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{spec.url}{file}: cannot be downloaded ({error}). What to do: pass "
                "--data-dir DIR, a folder with the files of the data set."
            ) from error
    return folder


def _verify_idx(spec: Spec, raw: tuple[RawSplit, RawSplit], data_dir: Path) -> None:
    for prefix, (images, labels) in zip(("train", "t10k"), raw, strict=True):
        for kind, array in (("images", images), ("labels", labels)):
            # An idx file is its header and its array: no need to read it again.
            header = struct.pack(
                f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape
            )
            content = header + array.tobytes()
            _verify(content, spec, f"{prefix}-{kind}", data_dir)


def _load_cifar(spec: Spec, data_dir: Path) -> tuple[RawSplit, RawSplit]:
    parts: dict[bool, list[RawSplit]] = {True: [], False: []}
    for file in spec.checksums:
        content = _read(spec, data_dir, file)
        # A pickle can run any program: this is the official one, or we stop here.
        _verify(content, spec, file, data_dir)
        batch = pickle.loads(content, encoding="bytes")
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = batch.get(b"fine_labels", batch.get(b"labels"))
        parts["test" in file].append((images, np.asarray(labels)))
    train, test = (
        tuple(np.concatenate(arrays) for arrays in zip(*parts[tested], strict=True))
        for tested in (False, True)
    )
    return train, test


def _read(spec: Spec, data_dir: Path, file: str) -> bytes:
    """Read a file of the official archive, unpacked or not."""
    archive = data_dir / next(iter(spec.downloads))
    try:
        if (data_dir / file).is_file():
            return (data_dir / file).read_bytes()
        with tarfile.open(archive) as tar:
            member = tar.extractfile(file)
            return member.read() if member else b""
    except (OSError, KeyError, tarfile.TarError) as error:
        raise DataError(
            f"{data_dir}: expected {archive.name} or {file} ({error}). What to do: get "
            f"{spec.url}{archive.name}, or leave out --data-dir to have it downloaded."
        ) from error


def _verify(content: bytes, spec: Spec, file: str, data_dir: Path) -> None:
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if checksum != spec.checksums[file]:
        raise DataError(
            f"{data_dir}: {file} is not that of {spec.title}, expected the MD5 sum "
            f"{spec.checksums[file]}, got {checksum}."
        )


def _load_jpegs(path: Path) -> tuple[RawSplit, RawSplit]:
    """Decode images that share a JPEG header: ``train_scan``, ``_end``, ``_label``."""
    from PIL import Image

    try:
        arrays = np.load(path)
        header = arrays["header"].tobytes()
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: expected the npz file of CIFAR-10 (JPEG-75) ({error})."
        ) from error
    splits = []
    for name in ("train", "test"):
        scan, ends = arrays[f"{name}_scan"].tobytes(), arrays[f"{name}_end"].tolist()
        images = [
            np.asarray(Image.open(io.BytesIO(header + scan[begin:end] + b"\xff\xd9")))
            for begin, end in zip([0, *ends], ends, strict=False)
        ]
        splits.append((np.stack(images), arrays[f"{name}_label"]))
    return tuple(splits)

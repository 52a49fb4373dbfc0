"""What the poster and the RAMDA paper report, in per cent, as it is printed there."""

from typing import NamedTuple


class Figures(NamedTuple):
    """Accuracy and sparsity, and the standard deviation of the latter."""

    accuracy: str
    sparsity: str | None = None
    deviation: str | None = None


# Group sparsity; the poster does not say in which of the three definitions.
POSTER = {
    "lenet5/mnist": {
        "dense": Figures("99.4"),
        "proxsgd": Figures("99.1", "76.6", "2.3"),
        "proxssi": Figures("99.1", "77.8", "1.6"),
        "rmda": Figures("99.1", "79.8", "1.6"),
    },
    "lenet5/fashion_mnist": {
        "dense": Figures("92.0"),
        "proxsgd": Figures("91.0", "50.5", "2.7"),
        "proxssi": Figures("90.9", "60.5", "1.1"),
        "rmda": Figures("91.4", "66.2", "1.7"),
    },
    "vgg19/cifar10": {
        "dense": Figures("94.0"),
        "proxsgd": Figures("92.4", "72.6", "6.0"),
        "proxssi": Figures("92.5", "81.1", "0.2"),
        "rmda": Figures("93.6", "86.4", "0.3"),
    },
    "vgg19/cifar100": {
        "dense": Figures("74.6"),
        "proxsgd": Figures("71.9", "8.6", "4.9"),
        "proxssi": Figures("66.2", "46.4", "1.4"),
        "rmda": Figures("72.2", "58.9", "0.4"),
    },
    "resnet50/cifar10": {
        "dense": Figures("95.7"),
        "proxsgd": Figures("92.4", "76.8", "4.1"),
        "proxssi": Figures("94.1", "74.8", "1.3"),
        "rmda": Figures("94.3", "83.0", "0.5"),
    },
    "resnet50/cifar100": {
        "dense": Figures("79.1"),
        "proxsgd": Figures("75.5", "51.8", "0.3"),
        "proxssi": Figures("74.5", "32.8", "2.5"),
        "rmda": Figures("76.1", "57.7", "3.8"),
    },
}

# Weights that are zero, one by one.
POSTER_UNSTRUCTURED = {
    "resnet50/cifar10": {
        "rigl": Figures("93.41", "98.00"),
        "rmda_l1": Figures("93.78", "98.36"),
    },
    "resnet50/cifar100": {
        "rigl": Figures("70.88", "98.00"),
        "rmda_l1": Figures("74.32", "98.32"),
    },
}

# Groups by size. Of the baselines the largest sparsity of all epochs, in the logistic
# regression.
RAMDA_LOGISTIC = {
    "logistic/mnist": {
        "proxsgd": Figures("91.31", "39.29"),
        "proxssi": Figures("91.31", "39.92"),
        "proxgen": Figures("91.31", "39.92"),
        "rmda": Figures("91.34", "57.02"),
        "ramda": Figures("91.35", "57.40"),
    }
}
RAMDA = {
    "vgg19/cifar10": {
        "dense": Figures("93.95"),
        "proxsgd": Figures("92.82", "82.76", "5.42"),
        "proxssi": Figures("92.81", "88.40"),
        "proxgen": Figures("92.83", "86.64"),
        "rmda": Figures("93.13", "90.22"),
        "ramda": Figures("92.89", "86.31"),
    },
    "vgg19/cifar100": {
        "dense": Figures("74.07"),
        "proxsgd": Figures("71.96", "72.34", "11.9"),
        "proxssi": Figures("67.29", "78.58"),
        "proxgen": Figures("68.13", "75.46"),
        "rmda": Figures("71.96", "80.88"),
        "ramda": Figures("70.47", "65.19"),
    },
    "resnet50/cifar10": {
        "dense": Figures("95.54"),
        "proxsgd": Figures("92.36", "82.18"),
        "proxssi": Figures("94.04", "83.67"),
        "proxgen": Figures("94.07", "80.45"),
        "rmda": Figures("95.11", "85.64"),
        "ramda": Figures("93.85", "81.99"),
    },
    "resnet50/cifar100": {
        "dense": Figures("79.49"),
        "proxsgd": Figures("74.54", "49.29"),
        "proxssi": Figures("73.65", "70.38"),
        "proxgen": Figures("73.63", "65.51"),
        "rmda": Figures("75.62", "79.97"),
        "ramda": Figures("69.23", "68.65"),
    },
}

# Singular values that are zero.
RAMDA_NUCLEAR = {
    "mlp/fashion_mnist": {
        "dense": Figures("89.95"),
        "proxsgd": Figures("87.54", "78.00"),
        "proxgen": Figures("86.66", "87.46"),
        "rmda": Figures("88.19", "91.88"),
        "ramda": Figures("87.99", "89.59"),
    }
}

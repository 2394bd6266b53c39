"""Fashion-MNIST: 28 x 28 pictures of clothes, a drop-in replacement for MNIST.

Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (arXiv
1708.07747).
"""

from bench.data.base import Data
from bench.data.bytes.cache import DataFile
from bench.data.bytes.sources import Download, Package
from bench.data.formats.idx import like_mnist

__all__ = ["FASHION_MNIST_FILES", "fashion_mnist"]

FASHION_MNIST_FILES = (
    DataFile("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016),
    DataFile("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
    DataFile("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
    DataFile("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
)
"""Images and labels of the 60,000 training and the 10,000 test examples. The file names are the same as MNIST's."""

_SOURCES = (
    Download("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),
    Package(
        "apt", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", "./usr/share/datasets/fashion-mnist",
    ),
)  # fmt: skip


def fashion_mnist(path: str | None = None) -> Data:
    """Return Fashion-MNIST, ``(N, 1, 28, 28)`` uint8: 50,000 / 10,000 / 10,000, split like ``mnist``.

    Classes 0 to 9: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

    Arguments:
        path: A folder with the four idx files of ``FASHION_MNIST_FILES``, plain or ``.gz``, or the archive of a source.
            None: the cache, then a download, then a package.

    Raises:
        UserError: No source has the files, or they hold other bytes than Fashion-MNIST's.
    """
    return like_mnist(
        "fashion_mnist", FASHION_MNIST_FILES, _SOURCES, path, licence="MIT", source="Xiao, Rasul, Vollgraf 2017"
    )

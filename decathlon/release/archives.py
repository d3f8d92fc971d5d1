"""The official archives, as data.

Sources: size and sha256 from TensorFlow Datasets' checksums (``visual_domain_decathlon.txt``), addresses
from there and from ``download_data.sh`` of github.com/srebuffi/residual_adapters.
"""

from types import MappingProxyType
from typing import Final

from decathlon.release.sources import DATA, DEVKIT, IMAGENET
from piggyback.data.download import Archive

ARCHIVES: Final = MappingProxyType(
    {
        archive.short: archive
        for archive in (
            Archive(
                name=DEVKIT,
                short="devkit",
                folder="http://www.robots.ox.ac.uk/~vgg/share/",
                size=23_503_205,
                digest="f86d9e128678434ff2a3a374f00eb3e2ec2267e15e53ddae5f19ff19378b5ff7",
                holds="annotations of all ten tasks",
            ),
            Archive(
                name=DATA,
                short="data",
                folder="http://www.robots.ox.ac.uk/~vgg/share/",
                size=406_351_554,
                digest="8eca928bda025d855c91a78db45b3b18bc322efd7b1462a041e62c27b3c83c25",
                holds="pictures of the nine tasks",
            ),
            Archive(
                name=IMAGENET,
                short="imagenet",
                folder="http://www.image-net.org/image/decathlon/",
                size=6_535_075_840,
                digest="93caac18a907266f917136849c1db7bbf88dd595120af1a8eea7177138962e4a",
                holds="pictures of imagenet12, which trains the backbone",
                page="https://image-net.org/download-images",
            ),
        )
    }
)

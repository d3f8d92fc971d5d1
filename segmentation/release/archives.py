"""The official archives of VOC and SBD, as data.

Sources: addresses and md5 as torchvision 0.29.2 states them (``torchvision/datasets/voc.py``, ``sbd.py``; older
versions have the same digests under ``host.robots.ox.ac.uk``, which redirects).  Sizes: voc2012 from TensorFlow
Datasets (``tensorflow_datasets/url_checksums/voc.txt``); sbd from the download shown in pytorch/vision#8471.  The
list of ids is the one file that was available here: a copy of 67,476 bytes has the md5 that torchvision states.

Not verified: the archives themselves were never downloaded here.  No source for the size of voc2011 was found, so its
digest alone decides.  Sources differ on whether benchmark.tgz is compressed (github.com/wkentaro/pytorch-fcn renames
it to .tar, others unpack it with ``tar -z``); its size is no multiple of a tar's 512 bytes, which speaks for gzip.
Readers should let tarfile find out.
"""

from types import MappingProxyType
from typing import Final

from piggyback.data.download import Archive

DEFAULT: Final = ("voc2012", "sbd")
"""What the splits need: seg11valid lies wholly inside VOC2012's val, so VOC2011 adds nothing."""

ARCHIVES: Final = MappingProxyType(
    {
        archive.short: archive
        for archive in (
            Archive(
                name="VOCtrainval_11-May-2012.tar",
                short="voc2012",
                folder="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/",
                size=1_999_639_040,
                digest="6cd6e144f989b92b3379bac3b3de84fd",
                algorithm="md5",
                holds="VOCdevkit/VOC2012: pictures, label maps and lists",
            ),
            Archive(
                name="VOCtrainval_25-May-2011.tar",
                short="voc2011",
                folder="https://thor.robots.ox.ac.uk/pascal/VOC/voc2011/",
                digest="6c3384ef61512963050cb5d687e5bf1e",
                algorithm="md5",
                holds="TrainVal/VOCdevkit/VOC2011: pictures, label maps and lists",
            ),
            Archive(
                name="benchmark.tgz",
                short="sbd",
                folder="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/",
                size=1_419_539_633,
                digest="82b4d87ceb2ed10f6038a1cba92111cb",
                algorithm="md5",
                holds="benchmark_RELEASE: SBD's pictures, label maps and lists",
            ),
            Archive(
                name="train_noval.txt",
                short="sbd-train-noval",
                folder="https://www.cs.cornell.edu/~bharathh/",
                size=67_476,
                digest="79bff800c5f0b1ec6b21080a3c066722",
                algorithm="md5",
                holds="ids of SBD's pictures that are not in VOC2012's val; goes into benchmark_RELEASE/dataset",
            ),
        )
    }
)

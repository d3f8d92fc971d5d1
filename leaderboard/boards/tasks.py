"""The tasks whose results a store may hold, with what is known of their official releases.

Counts from the TensorFlow Datasets catalogue (``visual_domain_decathlon``), the rule of the ids from the
``labels_test.zip`` of github.com/srebuffi/residual_adapters (commit 5c51aa3); VOC's classes from section 2.6 of the
devkit's documentation.  `decathlon.tasks` and `segmentation.voc` hold the same, and a test holds them equal: this
package stands without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

SEGMENTATION_TASK: Final = "pascal-voc"
VOC_CLASSES: Final = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True, kw_only=True)
class DecathlonTask:
    """One of the ten tasks.

    Attributes:
        number: alphabetical, from 1; every id of the task lies between number * 10^7 and the next task's.
        classes: in the official release.
        pictures: counts of train, val and test in the official release.
    """

    number: int
    classes: int
    pictures: tuple[int, int, int]

    @property
    def ids(self) -> range:
        """Ids that a picture or a category may have, of any release."""
        return range(self.number * 10**7 + 1, (self.number + 1) * 10**7)

    @property
    def categories(self) -> range:
        """Ids of the official release's categories."""
        return range(self.number * 10**7 + 1, self.number * 10**7 + 1 + self.classes)

    def official_ids(self, split: str) -> range:
        """Ids of the pictures of ``val`` or ``test`` in the official release.

        They are number * 10^7 + place of the split * 10^5 + r, and r counts from 1 through train, val and test.
        """
        place = ("train", "val", "test").index(split)
        first = self.number * 10**7 + place * 10**5 + sum(self.pictures[:place]) + 1
        return range(first, first + self.pictures[place])


DECATHLON: Final[Mapping[str, DecathlonTask]] = MappingProxyType(
    {
        "aircraft": DecathlonTask(number=1, classes=100, pictures=(3334, 3333, 3333)),
        "cifar100": DecathlonTask(number=2, classes=100, pictures=(40000, 10000, 10000)),
        "daimlerpedcls": DecathlonTask(number=3, classes=2, pictures=(23520, 5880, 19600)),
        "dtd": DecathlonTask(number=4, classes=47, pictures=(1880, 1880, 1880)),
        "gtsrb": DecathlonTask(number=5, classes=43, pictures=(31367, 7842, 12630)),
        "imagenet12": DecathlonTask(number=6, classes=1000, pictures=(1232167, 49000, 48238)),
        "omniglot": DecathlonTask(number=7, classes=1623, pictures=(17853, 6492, 8115)),
        "svhn": DecathlonTask(number=8, classes=10, pictures=(47217, 26040, 26032)),
        "ucf101": DecathlonTask(number=9, classes=101, pictures=(7585, 1952, 3783)),
        "vgg-flowers": DecathlonTask(number=10, classes=102, pictures=(1020, 1020, 6149)),
    }
)
DECATHLON_SPLITS: Final = ("val", "test")
PREDICTED: Final = "test"
"""The part that a run's ``predictions.npz`` answers, also beside its record of val, which is counted and not kept."""

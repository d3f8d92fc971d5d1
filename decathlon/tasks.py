"""The ten tasks of the Visual Decathlon, as data.

Sources: counts from the TensorFlow Datasets catalogue (``visual_domain_decathlon``), class names and
labels of the test parts from the ``labels_test.zip`` that the organisers published in December 2020
(github.com/srebuffi/residual_adapters, commit 5c51aa3), channel statistics from their
``decathlon_mean_std.pickle`` in the same place.  The digests were computed from that zip.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from piggyback.shell.errors import UnknownName

Split = Literal["train", "val", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "val", "test")
BACKBONE_TASK: Final = "imagenet12"
TASK_VERSION: Final = 1
"""Version of the tasks, as results record it: results of different versions must not be compared."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the ten classification problems.

    Attributes:
        name: as in the official files' names.
        number: alphabetical, from 1; the leading digits of the task's ids.
        classes: in the official release.
        pictures: counts of train, val and test in the official release.
        names_sha256: of the official class names in the order of their ids, joined by newlines.
        labels_sha256: of the official test labels, ``image_id category_id`` per line in the order of ids,
            joined by newlines.
        mirrored: whether a picture's mirror image has the same label: not for digits, characters, signs.
        mean, std: the organisers' channel statistics, RGB in [0, 1].
    """

    name: str
    number: int
    classes: int
    pictures: tuple[int, int, int]
    names_sha256: str
    labels_sha256: str
    mirrored: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def category_ids(self) -> range:
        """Ids that a category of this task may have: number * 10^7 + 1, 2, ..."""
        return range(self.number * 10**7 + 1, (self.number + 1) * 10**7)

    def first_image_id(self, split: Split) -> int:
        """The id of the split's first picture in the official release.

        Picture ids are number * 10^7 + split * 10^5 + r, where r counts from 1 through train, val and
        test without a restart.  imagenet12 has more than 10^5 pictures, so ids are added, never decoded.
        """
        place = SPLITS.index(split)
        return self.number * 10**7 + place * 10**5 + sum(self.pictures[:place]) + 1


TASKS: Final = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                name="aircraft",
                number=1,
                classes=100,
                pictures=(3334, 3333, 3333),
                names_sha256="eaae2e8a9ee3f14273f19aa98e94132fa78bd5031bda78914b9d4e82d403528b",
                labels_sha256="e95972c283e09bcf6e47e8b7c45f5df19b0de59641a1a9e9af15a6933ce1d319",
                mirrored=True,
                mean=(0.479830, 0.510741, 0.534380),
                std=(0.210702, 0.205089, 0.237297),
            ),
            Task(
                name="cifar100",
                number=2,
                classes=100,
                pictures=(40000, 10000, 10000),
                names_sha256="fbe8ad23bbaf24969898a386833b49c3aaf6ad1119d43f7b41cdea1b3416d578",
                labels_sha256="2dee7e0c7afeb7db4492d84be8aabd886b025fac636de73f30b27febbc5ecac1",
                mirrored=True,
                mean=(0.507059, 0.486667, 0.440784),
                std=(0.267451, 0.256471, 0.276078),
            ),
            Task(
                name="daimlerpedcls",
                number=3,
                classes=2,
                pictures=(23520, 5880, 19600),
                names_sha256="cc2f9120e22be2174113ae5418e31cd9197080ca9e2c0bde7a564d191455db76",
                labels_sha256="8865d0ce908c0220e9a89e54ad541ebb38c6ec1fa26b25379ad78a81e9419cd5",
                mirrored=True,
                mean=(0.482035, 0.482035, 0.482035),
                std=(0.236126, 0.236126, 0.236126),
            ),
            Task(
                name="dtd",
                number=4,
                classes=47,
                pictures=(1880, 1880, 1880),
                names_sha256="681d23b9cd3c2edec8ff7ea1fd6f5dd92f3b8d1dfb5a43fd0faee72a116c1130",
                labels_sha256="20619b61f17597d72a1b4dd9f4a08e28c09f847cabe4afc93936ff52f3d8d434",
                mirrored=True,
                mean=(0.526965, 0.470252, 0.423967),
                std=(0.252269, 0.240918, 0.249941),
            ),
            Task(
                name="gtsrb",
                number=5,
                classes=43,
                pictures=(31367, 7842, 12630),
                names_sha256="e3da967bffc1ebbecdb632f4984c0fab745d0dee5749d6e23f21dc1cb8fd88f9",
                labels_sha256="ac6d6a49f66fac750e4bc884f2b8dbbb8c8901217a196166cefdf1364b27c45b",
                mirrored=False,
                mean=(0.339213, 0.311784, 0.320470),
                std=(0.275603, 0.265761, 0.270899),
            ),
            Task(
                name="imagenet12",
                number=6,
                classes=1000,
                pictures=(1232167, 49000, 48238),
                names_sha256="385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd",
                labels_sha256="d3b363502ca1de12d9a2e8724220da19b5af4b4c07e7bf5358291e98061aa190",
                mirrored=True,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
            ),
            Task(
                name="omniglot",
                number=7,
                classes=1623,
                pictures=(17853, 6492, 8115),
                names_sha256="bb2f4f8ff9782436be97ca5423bf368d83a8f32408d571854dfa651136ed545a",
                labels_sha256="48624c5c32ae874670c1c5f20834ccdd76e5df795446a3dc969101475e81f05a",
                mirrored=False,
                mean=(0.080998, 0.080998, 0.080998),
                std=(0.270469, 0.270469, 0.270469),
            ),
            Task(
                name="svhn",
                number=8,
                classes=10,
                pictures=(47217, 26040, 26032),
                names_sha256="29dd21f55e4611d4c787c2148e39b4e341d4c10701dd03eed360aa55035bdb34",
                labels_sha256="0a7ad47975a24dbd0a44bf9d9b9cdcd1f4fa685838e7d884eca0d7b9f827378a",
                mirrored=False,
                mean=(0.437682, 0.443770, 0.472804),
                std=(0.198030, 0.201016, 0.197036),
            ),
            Task(
                name="ucf101",
                number=9,
                classes=101,
                pictures=(7585, 1952, 3783),
                names_sha256="01e7e1408d08ad15372e4042fab008938a1eebc76f9a4044babc82a0697cd45c",
                labels_sha256="8b69f3f332e52e1fa528b231ddee92c606af2c1c35236bb2309bd2cf077e6f3b",
                mirrored=True,
                mean=(0.499531, 0.498804, 0.499820),
                std=(0.108987, 0.108102, 0.106799),
            ),
            Task(
                name="vgg-flowers",
                number=10,
                classes=102,
                pictures=(1020, 1020, 6149),
                names_sha256="293440eff876c4babbcd293b77688019eb1ec0e0de355eaa9df903c9c8eb424e",
                labels_sha256="c187806d384ec822a5e292d22c691c8801b603014cdb792e7fe5a8242cb0aa4b",
                mirrored=True,
                mean=(0.434147, 0.383099, 0.297148),
                std=(0.285098, 0.238423, 0.263963),
            ),
        )
    }
)

MASKED_TASKS: Final = tuple(name for name in TASKS if name != BACKBONE_TASK)


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownName: naming the nearest one.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownName(name, known=TASKS, kind="task") from None

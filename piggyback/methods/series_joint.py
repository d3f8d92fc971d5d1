"""Series residual adapters on one network that is trained on all tasks together with them.

Source: Rebuffi, Bilen, Vedaldi, NIPS 2017 ("Res. Adapt. (J)" of table 8), where the shared weights are fine-tuned on
all tasks at once.
"""

from dataclasses import dataclass
from typing import Literal

from piggyback.methods.series import AddsSeriesAdapters


@dataclass(frozen=True, kw_only=True)
class SeriesJoint(AddsSeriesAdapters):
    """As `Series`, but on a backbone that was trained on all tasks, each through its own adapters and norm layers."""

    name: Literal["series-joint"] = "series-joint"
    adapts: Literal["modules"] = "modules"
    stands_on: Literal["joint"] = "joint"
    merge: Literal["close"] = "close"

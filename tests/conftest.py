"""What every test may use."""

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real pictures, weights and labels beside the project; a user's machine has none of them.

    Where ``REQUIRE_DATA`` is set, as in CI, a missing folder is a failure and no skip.
    """
    if not SHARED_DATA.is_dir():
        reason = f"needs the real data at {SHARED_DATA}, which is not there"
        if os.environ.get("REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED_DATA

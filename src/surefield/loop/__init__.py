"""The loop: rounds of fit, uncertainty, selection and labels; oracles, journal, pools."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.acquisition.select import feature_rows, select
    from surefield.loop.config import LoopConfig
    from surefield.loop.rounds import Loop

__all__ = ["Loop", "LoopConfig", "feature_rows", "select"]

import_on_first_use(
    __name__,
    {
        "surefield.acquisition.select": ("feature_rows", "select"),
        "surefield.loop.config": ("LoopConfig",),
        "surefield.loop.rounds": ("Loop",),
    },
)

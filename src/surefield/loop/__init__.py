"""The loop: rounds of fit, exploration, selection and labels; oracles, journal, comparisons of methods."""

from typing import TYPE_CHECKING

from surefield.lazy import import_on_first_use

if TYPE_CHECKING:
    from surefield.acquisition.select import feature_rows, select
    from surefield.loop.campaign import Loop
    from surefield.loop.config import LoopConfig
    from surefield.loop.method_comparison import MethodComparison
    from surefield.loop.trace import trace

__all__ = ["Loop", "LoopConfig", "MethodComparison", "feature_rows", "select", "trace"]

import_on_first_use(
    __name__,
    {
        "surefield.acquisition.select": ("feature_rows", "select"),
        "surefield.loop.campaign": ("Loop",),
        "surefield.loop.config": ("LoopConfig",),
        "surefield.loop.method_comparison": ("MethodComparison",),
        "surefield.loop.trace": ("trace",),
    },
)

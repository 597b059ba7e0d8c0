"""The loop: rounds of fit, uncertainty, selection and labels; oracles, journal, pools."""

from surefield.acquisition.select import feature_rows, select
from surefield.loop.config import LoopConfig
from surefield.loop.rounds import Loop

__all__ = ["Loop", "LoopConfig", "feature_rows", "select"]

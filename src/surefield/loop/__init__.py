"""The loop: rounds of fit, uncertainty, selection and labels; oracles, journal, pools."""

from surefield.loop.config import LoopConfig
from surefield.loop.rounds import Loop
from surefield.loop.select import feature_rows, select

__all__ = ["Loop", "LoopConfig", "feature_rows", "select"]

"""What a run folder says, as data (`load_run`) and as one self-contained page (`write_report`)."""

from surefield.report.html import write_report
from surefield.report.index import write_index
from surefield.report.live import write_loop_page
from surefield.report.run import Curve, Pick, Run, load_run

__all__ = ["Curve", "Pick", "Run", "load_run", "write_index", "write_loop_page", "write_report"]

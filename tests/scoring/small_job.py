"""The program of jobs, which knows the small scores of the tests too."""

import sys

from surefield.scores import classes, job

SMALL = dict.fromkeys(("Heights", "Masked", "Count", "Square"), "tests.scoring.scores")

if __name__ == "__main__":
    classes.SCORES.update(SMALL)
    job.main(sys.argv[1])

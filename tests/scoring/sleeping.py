"""A program of jobs that takes a moment and leaves no result."""

import time

if __name__ == "__main__":
    time.sleep(0.3)

"""Where and how work runs: executors, compilation cache, progress, run folders. No science in here."""

"""Write RESULTS.md from the folders of finished sweeps: python tools/results.py runs/paper_table1. See ``--help``."""

from timesformer_plus.analysis.results_page import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Time the models side by side with others and with bare matrix products; compare two such runs. See ``--help``."""

from timesformer_plus.analysis.bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

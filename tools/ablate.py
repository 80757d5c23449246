"""Train the variants of a sweep, several seeds each, and compare them; see --help."""

from timesformer_plus.analysis.ablation import main

if __name__ == "__main__":
    raise SystemExit(main())

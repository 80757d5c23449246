"""Train a video model on labelled video files. See ``--help``."""

from timesformer_plus.engine.train import main

if __name__ == "__main__":
    main()

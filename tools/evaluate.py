"""Score a trained model on the videos of a manifest. See ``--help``."""

from timesformer_plus.engine.evaluate import main

if __name__ == "__main__":
    main()

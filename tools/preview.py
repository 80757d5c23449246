"""Draw what a model will see of the videos of a recipe. See ``--help``."""

from timesformer_plus.engine.preview import main

if __name__ == "__main__":
    main()

"""Name what a video shows. See ``--help``."""

from timesformer_plus.engine.predict import main

if __name__ == "__main__":
    main()

"""Score a trained model on the videos of a manifest. See ``--help``."""

import os

# else MKL adds up in another order with another number of threads, which differs by default between one process and two
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

from timesformer_plus.engine.evaluate import main

if __name__ == "__main__":
    main()

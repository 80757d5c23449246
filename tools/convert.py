"""Turn a published checkpoint into a folder that timm loads. See ``--help``."""

from timesformer_plus.engine.convert import main

if __name__ == "__main__":
    main()

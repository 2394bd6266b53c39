"""The configuration files, as a package: Hydra finds them as ``pkg://conf`` in a checkout and in a wheel alike."""

"""genbench: one protocol, one table for flows, GANs, VAEs and other generative models."""

from bench.ours import claim

__version__ = "0.1.0"

claim()

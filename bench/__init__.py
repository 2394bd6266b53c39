"""genbench: one protocol, one table for flows, GANs, VAEs and other generative models."""

__version__ = "0.1.0"

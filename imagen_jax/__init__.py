"""Trainer for Imagen, a text-to-image cascade of diffusion models, in JAX."""

__version__ = '0.1.0'

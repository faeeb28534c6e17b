"""Captions to embeddings: the frozen encoders, and the store of their output.

Nothing in this folder needs TensorFlow, and reading a store needs no JAX.
"""

"""Shards of records: which there are, and where in them each record begins.

What is here needs no TensorFlow: `imagen-jax data index` runs it in many
processes at once.
"""

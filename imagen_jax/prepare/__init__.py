"""Preparing a dataset at scale: `imagen-jax data build --config`.

The records of a config's tasks are checked, freed of duplicates, made as small
as the stages want them, and written as balanced ArrayRecord shards with their
index and a report. Two Apache Beam pipelines and what a person reads:

  scan       a range of records -> a spool of pictures, and facts about each
  deduplicate, then count what is left of each range
  write      a run of what is left -> a shard

What each has done lies in files, whole or not there at all, so that a build
that was stopped goes on; and each file is a function of the records and the
options alone, whatever ran it. `pipelines` alone imports Beam.
"""

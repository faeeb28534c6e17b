"""Sampling settings by name, for each stage of a cascade.

The paper states no steps. Those of 'reference' are its successors'; the others
are the fewest whose pictures of the quickstart's cascade are within 6 and 10
levels of 255 of where their solver leads (`benchmarks/steps.py`; the tables are
in docs/diffusion.md).
"""

# A row a stage: the base, the first super-resolution stage, and those behind.
PRESETS = {
  # The paper's sampler; its steps are not stated, these are its successors'.
  'reference': (
    {'sampler': 'ancestral', 'spacing': 'time', 'num_steps': 256},
    {'sampler': 'ancestral', 'spacing': 'time', 'num_steps': 128},
    {'sampler': 'ancestral', 'spacing': 'time', 'num_steps': 64},
  ),
  'balanced': (
    {'sampler': 'dpmpp', 'spacing': 'time', 'num_steps': 32},
    {'sampler': 'dpmpp', 'spacing': 'time', 'num_steps': 16},
    {'sampler': 'dpmpp', 'spacing': 'time', 'num_steps': 16},
  ),
  'fast': (
    {'sampler': 'dpmpp', 'spacing': 'time', 'num_steps': 12},
    {'sampler': 'dpmpp', 'spacing': 'time', 'num_steps': 6},
    {'sampler': 'dpmpp', 'spacing': 'time', 'num_steps': 6},
  ),
}


def settings(preset: str, place: int) -> dict:
  """Fields of `config.SampleConfig` that `preset` sets.

  Args:
    preset: a name of `PRESETS`.
    place: of the stage in its cascade, from 0.
  """
  rows = PRESETS[preset]
  return dict(rows[min(place, len(rows) - 1)])

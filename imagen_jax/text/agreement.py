"""Whether the stages of a cascade, and what samples them, share an encoder.

A stage is an `export.Stage`: its config's `text` and `text_identity`, which is
None in an export of before there were identities; then only what the config
states is compared, and that is said.
"""

import logging

from imagen_jax import config as config_lib
from imagen_jax.text import identity as identity_lib

_STATED = ('encoder', 'max_length', 'embed_dim')


def check_stages(stages) -> None:
  """Raises ValueError unless all were trained with one encoder."""
  wanted = {}
  for stage in stages:
    found = _identity(stage)
    differ = [n for n in wanted if n in found and found[n] != wanted[n]]
    if differ:
      raise ValueError(
        f'--weights: stage {stage.stage.name!r} has another text.{differ[0]} '
        f'({found[differ[0]]!r}) than the stages before it '
        f'({wanted[differ[0]]!r}); accepted: stages trained with one encoder'
      )
    wanted = found | wanted


def _identity(stage):
  """What stages are to share, by name."""
  stated = {name: getattr(stage.text, name) for name in _STATED}
  if not stage.text_identity:
    return stated
  return identity_lib.sampled(stage.text_identity) | stated


def check_encoder(text: config_lib.TextConfig, stages) -> None:
  """Raises ValueError unless a config's encoder is the one of the stages.

  Reads fingerprints (`identity.of`), so that it is known before any weights
  are restored.

  Args:
    text: the config, with the places that weights and vocabulary are read from.
    stages: which `check_stages` has passed.
  """
  silent = [s.stage.name for s in stages if not s.text_identity]
  if silent:
    logging.getLogger(__name__).warning(
      'exports without the identity of their text encoder, which is not '
      'checked for them: %s',
      ', '.join(silent),
    )
  known = [stage for stage in stages if stage.text_identity]
  if not known:
    return
  wanted = identity_lib.sampled(known[0].text_identity)
  found = identity_lib.sampled(identity_lib.of(text))
  differ = [
    f'{name} {found[name]!r}, not {wanted[name]!r}'
    for name in wanted
    if found[name] != wanted[name]
  ]
  if differ:
    where = text.checkpoint or 'the published checkpoint'
    raise ValueError(
      f'--text-checkpoint: {where} is not the text encoder that stage '
      f'{known[0].stage.name!r} was trained with, by fingerprint: '
      f'{", ".join(differ)}; accepted: the same weights and vocabulary, '
      'wherever they lie (--text-checkpoint, --text-vocabulary)'
    )

"""What is asked of sampling, put over what the stages were exported with.

A preset goes over an exported stage's own settings, `--set` over the preset,
and a flag of its own over both.
"""

import dataclasses

from imagen_jax import config
from imagen_jax import presets

# Of the steps from a picture without a mask: enough to change what is in it.
_STRENGTH = 0.6


def apply(
  stages,
  *,
  preset: str | None = None,
  settings: list[str] = (),
  steps: list[int] | None = None,
  sampler: str | None = None,
  image: str | None = None,
  mask: str | None = None,
  strength: list[float] | None = None,
  resample: int | None = None,
) -> list:
  """`stages` (`export.Stage`) with their sampling settings replaced.

  Args:
    stages: base first.
    preset: of `presets.PRESETS`.
    settings: '[STAGE.]FIELD=VALUE', of `config.SampleConfig`.
    steps: a number a stage.
    sampler: of all stages.
    image: picture to start from, if any.
    mask: of it, if any.
    strength: share of the steps taken from `image`, a number a stage; None for
      the stages' own, or without a mask, where that is all, for 0.6.
    resample: times that each step is taken under a mask.

  Raises:
    ValueError: where a setting cannot be, or could not tell.
  """
  changes = _assigned([stage.stage.name for stage in stages], settings)
  found = []
  for place, change in enumerate(changes):
    own = presets.settings(preset, place) if preset else {}
    _check_edit(change, image, mask)
    if image and not mask and stages[place].stage.sample.strength == 1:
      own = {'strength': _STRENGTH, **own}
    asked = {
      'num_steps': steps and steps[place],
      'sampler': sampler,
      'strength': strength and strength[place],
      'resample': resample,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if sampler == 'heun' and 'spacing' not in change:
      spacing = own.get('spacing', stages[place].stage.sample.spacing)
      # It takes no steps by time, which nobody asked for here.
      asked['spacing'] = 'karras' if spacing == 'time' else spacing
    found.append(_with_sampling(stages[place], {**own, **change, **asked}))
  if (
    image
    and not mask
    and all(stage.stage.sample.strength == 1 for stage in found)
  ):
    raise ValueError(
      'strength is 1 of every stage without --mask: nothing of --init-image '
      'would be left; accepted: less than 1 for a stage, or a mask'
    )
  return found


def _with_sampling(stage, changes):
  """`stage` with fields of its sampling settings, as text, replaced."""
  found = config.override(
    config.Config(stage=stage.stage),
    [f'stage.sample.{name}={value}' for name, value in changes.items()],
  )
  return dataclasses.replace(stage, stage=found.stage)


def _assigned(names, settings):
  """{field: text} for each of the stages `names`, of '[STAGE.]FIELD=VALUE'."""
  found = [{} for _ in names]
  for assignment in settings:
    path, equals, value = assignment.partition('=')
    stage, dot, field = path.strip().rpartition('.')
    if not equals or (dot and stage not in names):
      raise ValueError(
        f'--set is {assignment!r}; accepted: FIELD=VALUE, or STAGE.FIELD=VALUE '
        f'with a STAGE of {", ".join(names)}'
      )
    for name, changes in zip(names, found):
      if stage in ('', name):
        changes[field] = value
  return found


def _check_edit(settings, image, mask):
  """Raises ValueError where a setting of --set could not tell."""
  for field, needed, flag in (
    ('strength', image, '--init-image'),
    ('resample', mask, '--mask'),
    ('resample_jump', mask, '--mask'),
  ):
    if field in settings and not needed:
      raise ValueError(
        f'--set {field} is {settings[field]} without {flag}; accepted: with it'
      )

"""The schema of a run: frozen dataclasses, overrides, JSON in and out.

A config is a value. Building, comparing or printing one starts no device,
opens no dataset and imports nothing but the standard library.
"""

from imagen_jax.config.diffusion import DiffusionConfig
from imagen_jax.config.files import load
from imagen_jax.config.guard import GuardConfig
from imagen_jax.config.guard import KeepConfig
from imagen_jax.config.inputs import DataConfig
from imagen_jax.config.inputs import FilterConfig
from imagen_jax.config.inputs import TaskConfig
from imagen_jax.config.inputs import TextConfig
from imagen_jax.config.json_form import from_json
from imagen_jax.config.json_form import to_json
from imagen_jax.config.network import UNetConfig
from imagen_jax.config.overrides import override
from imagen_jax.config.run import LONGEST_EMA
from imagen_jax.config.run import MeshConfig
from imagen_jax.config.run import OptimizerConfig
from imagen_jax.config.run import ParameterRule
from imagen_jax.config.run import TrainConfig
from imagen_jax.config.sampling import SampleConfig
from imagen_jax.config.schema import RUNTIME_FIELDS
from imagen_jax.config.schema import Config
from imagen_jax.config.schema import differences
from imagen_jax.config.schema import outcome_fields
from imagen_jax.config.stage import StageConfig

__all__ = [
  'Config',
  'DataConfig',
  'DiffusionConfig',
  'FilterConfig',
  'GuardConfig',
  'KeepConfig',
  'LONGEST_EMA',
  'MeshConfig',
  'OptimizerConfig',
  'ParameterRule',
  'RUNTIME_FIELDS',
  'SampleConfig',
  'StageConfig',
  'TaskConfig',
  'TextConfig',
  'TrainConfig',
  'UNetConfig',
  'differences',
  'from_json',
  'load',
  'outcome_fields',
  'override',
  'to_json',
]

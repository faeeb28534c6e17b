"""What holds for every test: strict switches, and eight simulated devices.

The settings are made before JAX starts, and as environment variables where a
child process should have them as well.
"""

import hashlib
import os
import pathlib
import platform

import pytest


def _compilation_cache():
  """Folder of compiled programs, of this processor and no other.

  Compiled code may use whatever instructions the processor has, and a home
  folder may be shared by machines that differ in them.
  """
  cpu = pathlib.Path('/proc/cpuinfo')
  flags = {
    line
    for line in (cpu.read_text().splitlines() if cpu.exists() else ())
    if line.startswith(('flags', 'Features', 'model name'))
  }
  machine = f'{platform.machine()} {sorted(flags)}'
  name = hashlib.sha256(machine.encode()).hexdigest()[:16]
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'imagen_jax' / f'test-programs-{name}'


os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_compilation_cache()))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax  # noqa: E402  After what it reads.

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_legacy_prng_key', 'error')
jax.config.update('jax_debug_key_reuse', True)


def pytest_collection_modifyitems(items):
  """Skips, with the reason, what needs a TPU where there is none."""
  marked = [item for item in items if item.get_closest_marker('tpu')]
  if marked and jax.default_backend() != 'tpu':
    for item in marked:
      item.add_marker(pytest.mark.skip(reason='needs a TPU'))


@pytest.fixture
def repo() -> pathlib.Path:
  """The checkout that the tests are part of."""
  return pathlib.Path(__file__).parent.parent

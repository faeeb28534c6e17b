"""The floors of the package: who may import whom.

A module imports from its own folder and from the floors below it, so that the
parts at the bottom can be read, tested and reused alone.
"""

import ast
import configparser
import importlib.metadata
import pathlib
import subprocess
import sys

from packaging import requirements
from packaging import utils
import pytest

import imagen_jax

PACKAGE = pathlib.Path(imagen_jax.__file__).parent

# The longest prefix that fits a module says its floor.
FLOORS = {
  'imagen_jax': 0,  # The package itself: its version, nothing more.
  'imagen_jax.config': 0,
  'imagen_jax.structs': 0,
  'imagen_jax.storage': 0,
  'imagen_jax.shards': 0,
  'imagen_jax.grid': 0,
  'imagen_jax.jpeg_scans': 0,
  'imagen_jax.pictures': 0,
  'imagen_jax.presets': 0,
  'imagen_jax.chips': 0,
  'imagen_jax.curves': 0,
  'imagen_jax.editing': 1,
  'imagen_jax.diffusion': 1,
  'imagen_jax.models': 1,
  'imagen_jax.data': 1,
  'imagen_jax.synthetic': 1,
  'imagen_jax.sharding': 1,
  'imagen_jax.text': 2,
  'imagen_jax.prepare': 2,
  'imagen_jax.cascade': 2,
  'imagen_jax.train': 2,
  'imagen_jax.train.guard': 2,
  'imagen_jax.train.gate': 2,
  'imagen_jax.train.keeping': 2,
  'imagen_jax.train.maintenance': 2,
  'imagen_jax.train.passing': 2,
  'imagen_jax.train.state': 2,
  'imagen_jax.train.alike': 2,
  'imagen_jax.train.optimizer': 2,
  'imagen_jax.train.metrics': 2,
  'imagen_jax.train.interval': 2,
  'imagen_jax.train.lines': 2,
  'imagen_jax.train.mirror': 2,
  'imagen_jax.train.wandb_log': 2,
  'imagen_jax.train.hosts': 2,
  'imagen_jax.train.memory': 2,
  'imagen_jax.train.goodput': 2,
  'imagen_jax.train.norms': 2,
  'imagen_jax.train.reading': 2,
  'imagen_jax.train.skipped': 2,
  'imagen_jax.train.checkpoint': 2,
  'imagen_jax.train.stopping': 2,
  'imagen_jax.train.digest': 1,
  'imagen_jax.train.damage': 2,
  'imagen_jax.train.parts': 2,
  'imagen_jax.train.power_ema': 1,
  'imagen_jax.train.posthoc': 2,
  'imagen_jax.train.snapshots': 3,
  'imagen_jax.train.profile': 2,
  'imagen_jax.train.watchdog': 2,
  'imagen_jax.train.resume': 3,
  'imagen_jax.train.changes': 3,
  'imagen_jax.train.start': 3,
  'imagen_jax.train.finished': 3,
  'imagen_jax.train.opening': 3,
  'imagen_jax.train.exhausted': 3,
  'imagen_jax.train.saving': 3,
  'imagen_jax.status': 1,
  'imagen_jax.compare': 2,
  'imagen_jax.train.waits': 2,
  'imagen_jax.train.reports': 3,
  'imagen_jax.train.step': 3,
  'imagen_jax.train.mfu': 3,
  'imagen_jax.train.executable': 3,
  'imagen_jax.train.samples': 3,
  'imagen_jax.train.colours': 1,
  'imagen_jax.evaluate': 3,
  'imagen_jax.export': 3,
  'imagen_jax.flops': 0,
  'imagen_jax.describe': 4,
  'imagen_jax.precompile': 4,
  'imagen_jax.train.lowres': 4,
  'imagen_jax.train.views': 4,
  'imagen_jax.train.advance': 4,
  'imagen_jax.train.loop': 4,
  'imagen_jax.sampling_settings': 1,
  'imagen_jax.generate': 4,
  'imagen_jax.cli': 5,
  'imagen_jax.__main__': 6,
}

# Two folders of one floor do not know each other.
FOLDERS = {'imagen_jax.' + p.parent.name for p in PACKAGE.glob('*/*.py')}

# Outside packages, by the modules that alone may import them.
ONLY = {
  'tensorflow': ('imagen_jax.data',),
  'tensorflow_datasets': ('imagen_jax.data', 'imagen_jax.synthetic.build'),
  'seqio': ('imagen_jax.data',),
  'flax.linen': ('imagen_jax.models', 'imagen_jax.sharding'),
  'orbax': (
    'imagen_jax.train.checkpoint',
    'imagen_jax.train.gate',
    'imagen_jax.train.keeping',
    'imagen_jax.train.parts',
  ),
  'tensorboard': ('imagen_jax.train.metrics',),
  'wandb': ('imagen_jax.train.wandb_log',),
  'resvg_py': ('imagen_jax.synthetic',),
  # One layer of files, set up in one place, before anything else uses it.
  'etils': ('imagen_jax.storage',),
  'fsspec': ('imagen_jax.storage', 'imagen_jax.shards.files'),
  'google.cloud': ('imagen_jax.storage',),
  'pyarrow': ('imagen_jax.shards', 'imagen_jax.data.parquet_table'),
  'apache_beam': (
    'imagen_jax.prepare.pipelines',
    'imagen_jax.prepare.runner',
  ),
  'gcsfs': (),
  't5x': (),
}

# And modules, by the outside packages that they do without.
NEVER = {
  'imagen_jax.data': ('jax', 'flax', 'optax'),
  'imagen_jax.synthetic': ('jax', 'flax', 'optax'),
  'imagen_jax.prepare': ('jax', 'flax', 'optax'),
  'imagen_jax.shards': ('jax', 'flax', 'tensorflow'),
  'imagen_jax.grid': ('jax', 'flax'),
  'imagen_jax.storage': ('jax', 'flax'),
  'imagen_jax.pictures': ('jax', 'flax'),
  'imagen_jax.jpeg_scans': ('jax', 'flax'),
  'imagen_jax.diffusion': ('flax', 'optax'),
  'imagen_jax.models': ('optax',),
}


def light(name):
  """Whether to import `name` must cost nothing, for a quick --help."""
  return name == 'imagen_jax' or any(
    within(name, folder) for folder in ('imagen_jax.cli', 'imagen_jax.config')
  )


def modules():
  """All modules of the package, as (name, path)."""
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
    yield name, path


def within(name, prefix):
  return name == prefix or name.startswith(prefix + '.')


def longest(name, table):
  return max((p for p in table if within(name, p)), key=len, default=None)


def imports(source, top_only=False):
  """Modules that `source` imports; a `from x import y` gives x.y."""
  tree = ast.parse(source)
  for node in tree.body if top_only else ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: a relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def violations(name, source):
  """What `source`, as module `name`, imports and must not."""
  floor = FLOORS[longest(name, FLOORS)]
  folder = longest(name, FOLDERS)
  for imported in imports(source):
    if within(imported, 'imagen_jax'):
      target = FLOORS[longest(imported, FLOORS)]
      other = longest(imported, FOLDERS)
      own_folder = folder is not None and folder == other
      if target > floor:
        yield f'{name} (floor {floor}) imports {imported} (floor {target})'
      elif target == floor and 0 < floor and not own_folder:
        yield f'{name} and {imported} are neighbours on floor {floor}'
    for package, allowed in ONLY.items():
      if within(imported, package) and not any(
        within(name, module) for module in allowed
      ):
        yield f'{name} imports {package}, which is for {allowed}'
    for module, banned in NEVER.items():
      for package in banned:
        if within(name, module) and within(imported, package):
          yield f'{name} imports {package}, which {module} does without'


@pytest.mark.parametrize('name, path', list(modules()))
def test_imports_keep_to_the_floors(name, path):
  row = longest(name, FLOORS)
  assert row == name or row not in ('imagen_jax', 'imagen_jax.train'), (
    f'{name} has no floor: give it one in FLOORS'
  )
  assert not list(violations(name, path.read_text()))


@pytest.mark.parametrize(
  'name, path', [(name, path) for name, path in modules() if light(name)]
)
def test_light_modules_start_with_the_standard_library_alone(name, path):
  for imported in imports(path.read_text(), top_only=True):
    first = imported.split('.')[0]
    assert (
      first in sys.stdlib_module_names
      or imported == 'imagen_jax'
      or light(imported)
    ), f'{name} imports {imported} before it is needed'


def test_the_tables_name_what_there_is():
  known = {name for name, _ in modules()}
  named = {*FLOORS, *NEVER}.union(*ONLY.values())
  assert named <= known


def test_who_alone_may_import_a_package_does():
  for package, allowed in ONLY.items():
    found = {
      module
      for module in allowed
      for name, path in modules()
      if within(name, module)
      for imported in imports(path.read_text())
      if within(imported, package)
    }
    assert found == set(allowed), package


@pytest.mark.parametrize(
  'name, source, words',
  [
    ('imagen_jax.models.unet', 'import tensorflow as tf', 'tensorflow'),
    ('imagen_jax.data.order', 'from jax import numpy as jnp', 'jax'),
    ('imagen_jax.config', 'from imagen_jax import structs, cascade', '2'),
    ('imagen_jax.diffusion.loss', 'import imagen_jax.models.unet', 'neigh'),
    ('imagen_jax.train.step', 'from imagen_jax.train import loop', '4'),
    ('imagen_jax.text.restore', 'import t5x.checkpoints', 't5x'),
  ],
)
def test_a_wrong_import_is_found(name, source, words):
  (found,) = violations(name, source)
  assert words in found


def test_importing_the_package_imports_nothing_heavy():
  code = 'import sys, imagen_jax, imagen_jax.config; print(*sys.modules)'
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.split()
  assert 'imagen_jax.config' in loaded
  assert not {'jax', 'numpy', 'flax', 'tensorflow', 'seqio', 'PIL'} & {*loaded}


def test_every_import_is_declared(repo):
  settings = configparser.ConfigParser()
  settings.read(repo / 'setup.cfg')
  texts = [settings['options']['install_requires']]
  for extra in ('quickstart', 'beam', 'wandb'):
    texts.append(settings['options.extras_require'][extra])
  declared = {
    utils.canonicalize_name(requirements.Requirement(line).name)
    for text in texts
    for line in text.strip().splitlines()
  }
  # seqio brings TensorFlow, in the version that its tensorflow-text fits.
  declared |= {'tensorflow', 'tensorflow-cpu'}
  packages = importlib.metadata.packages_distributions()
  # It may not be here: nothing else can be told then of whose it is.
  packages.setdefault('apache_beam', ['apache-beam'])
  packages.setdefault('wandb', ['wandb'])
  for name, path in modules():
    for imported in imports(path.read_text()):
      top = imported.split('.')[0]
      if top in sys.stdlib_module_names or top == 'imagen_jax':
        continue
      owners = {utils.canonicalize_name(each) for each in packages[top]}
      assert owners & declared, f'{name} imports {top}: not in setup.cfg'


def test_configs_import_the_schema_alone(repo):
  for path in sorted((repo / 'configs').glob('*.py')):
    for imported in imports(path.read_text()):
      assert imported.split('.')[0] in sys.stdlib_module_names or within(
        imported, 'imagen_jax.config'
      ), f'{path.name} imports {imported}'

"""What the benchmarks against other libraries count, and how they tell it."""

import runpy

import pytest


@pytest.fixture
def peers(repo):
  """The nets and the table of the benchmarks."""
  return runpy.run_path(str(repo / 'benchmarks' / 'peers.py'))


def test_attention_is_counted_of_pytorch(peers):
  torch = pytest.importorskip('torch', reason='needs imagen-jax[bench]')
  # (batch, heads, tokens, channels)
  q, k, v = (
    torch.ones(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7)
  )
  attend = torch.nn.functional.scaled_dot_product_attention
  # Two products forward, and four back.
  product = 2 * 2 * 3 * 5 * 7 * 8 / 1e9
  forward = peers['torch_gflop'](lambda: attend(q, k, v))
  both = peers['torch_gflop'](lambda: attend(q, k, v).sum().backward())
  assert forward == pytest.approx(2 * product)
  assert both == pytest.approx(6 * product)


def test_a_table_has_each_library_by_images_and_by_operations(peers):
  row = lambda library, seconds, gflop, gib: {
    'library': library,
    'batch': 8,
    'seconds': seconds,
    'gflop_per_image': gflop,
    'peak_bytes': gib * 2**30,
  }
  lines = peers['table'](
    [row('imagen_jax', 2.0, 60.0, 3), row('diffusers', 4.0, 40.0, 2)]
  ).splitlines()
  assert lines[2] == '| imagen_jax | 4.00 | 60.0 | 240 | 3.00 |  |  |  |'
  # Twice the images of one and a half times the operations each.
  assert lines[3] == (
    '| diffusers | 2.00 | 40.0 | 80 | 2.00 | 2.00 times | 3.00 times '
    '| 1.50 times |'
  )

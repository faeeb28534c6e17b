r"""Measures our training step against imagen-pytorch's and diffusers'.

    pip install 'imagen-jax[bench]'
    python benchmarks/train_step.py --size base --seconds 60

A step is loss, gradient, clipping, Adam and the average of weights, in float32
on the CPU, eager where the library is. Each library runs in a process of its
own, one after the other, on all processors; its peak memory is that process's,
compiling included. Prints a table in Markdown; GFLOP are those of all products
of a step. `--python LIBRARY=PATH` has another environment's Python run one.
"""

import argparse
import json
import subprocess
import sys

import peers


def ours(size: peers.Size, seconds: float) -> dict:
  """Our step, as `imagen-jax train` compiles it."""
  import jax

  from imagen_jax import sharding
  from imagen_jax.train import mfu
  from imagen_jax.train import optimizer
  from imagen_jax.train import state as state_lib
  from imagen_jax.train import step as step_lib

  config = peers.our_config(size, steps=100)
  mesh = sharding.make_mesh(config.mesh)
  tx = optimizer.make_optimizer(config)
  shardings = state_lib.state_shardings(config, tx, mesh)
  with sharding.use_mesh(mesh, config.mesh):
    state = state_lib.init_state(config, tx, shardings)
    step = step_lib.compile_step(config, tx, shardings, mesh)
    batch = sharding.put_batch(peers.our_data(size), mesh, config.mesh)

    def run():
      nonlocal state
      state, metrics = step(state, batch)
      jax.block_until_ready((state, metrics))

    median, count = peers.median_seconds(run, seconds)
  memory = peers.peak_bytes()
  return {
    'seconds': median,
    'runs': count,
    'gflop_per_image': mfu.model_flops(config) / 1e9,
    'peak_bytes': memory,
  }


def _torch_step(parameters, loss, size, seconds):
  """Times steps of what `loss()` differentiates, and counts one's products."""
  import torch

  optimizer = torch.optim.Adam(parameters, lr=1e-4)
  averages = [each.detach().clone() for each in parameters]

  def run():
    optimizer.zero_grad(set_to_none=True)
    loss().backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(averages, parameters, 1e-4)

  median, count = peers.median_seconds(run, seconds)
  memory = peers.peak_bytes()
  gflop = peers.torch_gflop(lambda: loss().backward()) / size.batch
  return {
    'seconds': median,
    'runs': count,
    'gflop_per_image': gflop,
    'peak_bytes': memory,
  }


def imagen_pytorch(size: peers.Size, seconds: float) -> dict:
  """A step of lucidrains' Imagen."""
  images, embeds, masks = peers.torch_data(size)
  imagen = peers.imagen_pytorch_net(size, steps=1000)
  loss = lambda: imagen(
    images, text_embeds=embeds, text_masks=masks, unet_number=1
  )
  parameters = [p for p in imagen.parameters() if p.requires_grad]
  return _torch_step(parameters, loss, size, seconds)


def diffusers(size: peers.Size, seconds: float) -> dict:
  """A step as diffusers' own training examples write it."""
  import diffusers as library
  import torch

  images, embeds, masks = peers.torch_data(size)
  net = peers.diffusers_net(size)
  schedule = library.DDPMScheduler(beta_schedule='squaredcos_cap_v2')

  def loss():
    noise = torch.randn_like(images)
    times = torch.randint(0, 1000, (size.batch,))
    noised = schedule.add_noise(2 * images - 1, noise, times)
    out = net(
      noised, times, encoder_hidden_states=embeds, encoder_attention_mask=masks
    )
    return torch.nn.functional.mse_loss(out.sample, noise)

  return _torch_step(list(net.parameters()), loss, size, seconds)


SIDES = {
  'imagen_jax': ours,
  'imagen-pytorch': imagen_pytorch,
  'diffusers': diffusers,
}


def run_each(sides: dict, script: str, what: str, arguments=()):
  """The program that this file and `sample.py` are.

  Args:
    sides: library -> (size, seconds, *extra) -> its measurement.
    script: this program's file, to start each side with.
    what: it measures, for `--help`.
    arguments: (flag, options of argparse) of what the sides are also given.
  """
  parser = argparse.ArgumentParser(description=what)
  parser.add_argument('--size', choices=peers.SIZES, default='base')
  parser.add_argument('--seconds', type=float, default=60, help='a side')
  parser.add_argument('--json', metavar='FILE', help='also write figures there')
  parser.add_argument('--only', choices=sides, help=argparse.SUPPRESS)
  parser.add_argument(
    '--python', action='append', default=[], metavar='LIBRARY=PATH'
  )
  extra = [
    parser.add_argument(flag, **options).dest for flag, options in arguments
  ]
  args = parser.parse_args()
  given = [getattr(args, name) for name in extra]
  size = peers.SIZES[args.size]
  if args.only:
    found = sides[args.only](size, args.seconds, *given)
    print(json.dumps(found | {'library': args.only, 'batch': size.batch}))
    return
  pythons = dict(each.split('=', 1) for each in args.python)
  rows = []
  for library in sides:
    command = [pythons.get(library, sys.executable), script]
    command += ['--only', library, '--size', args.size]
    command += ['--seconds', str(args.seconds)]
    for (flag, _), value in zip(arguments, given):
      command += [flag, str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
      raise SystemExit(f'{library} failed, as it says above')
    rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(rows[-1], file=sys.stderr, flush=True)
  if args.json:
    with open(args.json, 'w') as file:
      json.dump({'size': args.size, 'rows': rows}, file, indent=2)
  print(peers.table(rows))


if __name__ == '__main__':
  run_each(SIDES, __file__, __doc__.splitlines()[0])

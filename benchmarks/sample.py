r"""Measures our sampling against imagen-pytorch's and diffusers'.

    pip install 'imagen-jax[bench]'
    python benchmarks/sample.py --size base --steps 10 --seconds 60

A batch of pictures of untrained nets, with guidance, so that each step of each
library calls its network with text and without. DDIM in ours and diffusers',
imagen-pytorch's own ancestral sampler there. How it is measured, and how each
library can have an environment of its own, is in `train_step.py`.
"""

import peers
import train_step


def ours(size: peers.Size, seconds: float, steps: int) -> dict:
  """Our sampler, as `imagen-jax sample` compiles it for a stage."""
  import jax

  from imagen_jax import cascade
  from imagen_jax import flops
  from imagen_jax import sharding
  from imagen_jax.train import state as state_lib

  config = peers.our_config(size, steps)
  key = jax.random.key(0)
  params = jax.jit(
    lambda key: sharding.unbox(state_lib.init_params(config, key))
  )(key)
  network = state_lib.make_network(config.stage)

  @jax.jit
  def draw(params, keys, text):
    apply = lambda *inputs: network.apply({'params': params}, *inputs)
    return cascade.sample_stage(apply, keys, text, None, config.stage)

  keys = jax.random.split(key, size.batch)
  text = peers.our_data(size).text
  run = lambda: jax.block_until_ready(draw(params, keys, text))
  median, count = peers.median_seconds(run, seconds)
  memory = peers.peak_bytes()
  jaxpr = jax.make_jaxpr(lambda p, x: network.apply({'params': p}, *x))(
    params, state_lib.example_inputs(config)
  )
  once = flops.products(jaxpr.jaxpr).total()
  return {
    'seconds': median,
    'runs': count,
    'gflop_per_image': 2 * steps * once / 1e9,
    'peak_bytes': memory,
  }


def _torch_samples(draw, size, seconds):
  """Times `draw()`, and counts its products."""
  import torch

  with torch.inference_mode():
    median, count = peers.median_seconds(draw, seconds)
    memory = peers.peak_bytes()
    gflop = peers.torch_gflop(draw)
  return {
    'seconds': median,
    'runs': count,
    'gflop_per_image': gflop / size.batch,
    'peak_bytes': memory,
  }


def imagen_pytorch(size: peers.Size, seconds: float, steps: int) -> dict:
  """lucidrains' Imagen, by its own `sample`."""
  _, embeds, masks = peers.torch_data(size)
  imagen = peers.imagen_pytorch_net(size, steps)
  draw = lambda: imagen.sample(
    text_embeds=embeds,
    text_masks=masks,
    cond_scale=peers.GUIDANCE,
    use_tqdm=False,
  )
  return _torch_samples(draw, size, seconds)


def diffusers(size: peers.Size, seconds: float, steps: int) -> dict:
  """diffusers' U-Net and DDIM, as its pipelines go about it."""
  import diffusers as library
  import torch

  _, embeds, masks = peers.torch_data(size)
  net = peers.diffusers_net(size).eval()
  schedule = library.DDIMScheduler(beta_schedule='squaredcos_cap_v2')
  both = torch.cat([torch.zeros_like(embeds), embeds])
  masks = torch.cat([masks, masks])

  def draw():
    schedule.set_timesteps(steps)
    x = torch.randn(size.batch, 3, size.pixels, size.pixels)
    for time in schedule.timesteps:
      out = net(
        torch.cat([x, x]),
        time,
        encoder_hidden_states=both,
        encoder_attention_mask=masks,
      ).sample
      uncond, cond = out.chunk(2)
      guided = uncond + peers.GUIDANCE * (cond - uncond)
      x = schedule.step(guided, time, x).prev_sample
    return x

  return _torch_samples(draw, size, seconds)


SIDES = {
  'imagen_jax': ours,
  'imagen-pytorch': imagen_pytorch,
  'diffusers': diffusers,
}


if __name__ == '__main__':
  train_step.run_each(
    SIDES,
    __file__,
    __doc__.splitlines()[0],
    [('--steps', {'type': int, 'default': 10, 'help': 'of the sampler'})],
  )

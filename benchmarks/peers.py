"""Nets of one size in three libraries: ours, imagen-pytorch and diffusers.

What `train_step.py` and `sample.py` measure. Width, depth, resolution, batch
and text are the same; the designs differ within that, so that the operations
are counted of each, by each library's own counter: all products of a step,
forward and backward.

Each library is imported where its side is made, and nowhere else.
"""

import dataclasses
import os
import resource
import statistics
import time
from unittest import mock

LIBRARIES = ('imagen_jax', 'imagen-pytorch', 'diffusers')


@dataclasses.dataclass(frozen=True)
class Size:
  """A base stage.

  Attributes:
    pixels: of an image's side.
    channels: of each level, multiples of the first.
    blocks: residual blocks of a level, on the way down.
    batch: images.
    tokens: of a caption; as of DeepFloyd's IF. With as many tokens as a level
      has pixels diffusers 0.42 mistakes its mask and fails.
    text_dim: channels of a token.
  """

  pixels: int
  channels: tuple[int, ...]
  blocks: int
  batch: int
  tokens: int = 77
  text_dim: int = 512

  @property
  def attention(self) -> tuple[bool, ...]:
    """Which levels attend over pixels and text: all but the finest."""
    return (False,) + (True,) * (len(self.channels) - 1)


SIZES = {
  'small': Size(32, (32, 64, 128), 2, 16),
  'base': Size(64, (64, 128, 192, 256), 2, 8),
}
HEAD_DIM = 32
GUIDANCE = 3.0


def peak_bytes() -> int:
  """The most memory that this process has had."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def median_seconds(run, budget: float) -> tuple[float, int]:
  """Median seconds of `run()`, and of how many; after two to warm up.

  Args:
    run: returns when its work is done.
    budget: seconds to spend, on three runs at least.
  """
  for _ in range(2):
    run()
  times, began = [], time.perf_counter()
  while len(times) < 3 or time.perf_counter() - began < budget:
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return statistics.median(times), len(times)


def torch_gflop(run) -> float:
  """GFLOP of all products of `run()`, by PyTorch's own counter.

  It does not see into the kernel that a CPU has for attention, a tenth and more
  of these nets, so that attention is spelled out while it is counted.
  """
  from torch.nn import attention
  from torch.utils import flop_counter

  with (
    attention.sdpa_kernel(attention.SDPBackend.MATH),
    flop_counter.FlopCounterMode(display=False) as counter,
  ):
    run()
  return counter.get_total_flops() / 1e9


def our_config(size: Size, steps: int):
  """Our config of a size, float32 as the peers are."""
  from imagen_jax import config

  levels = len(size.channels)
  return config.Config(
    stage=config.StageConfig(
      name='bench',
      image_size=size.pixels,
      unet=config.UNetConfig(
        design='base',
        channels=size.channels,
        num_res_blocks=(size.blocks,) * levels,
        self_attention=size.attention,
        text_attention=size.attention,
        head_dim=HEAD_DIM,
        embed_dim=4 * size.channels[0],
        num_groups=8,
        remat=False,
        dtype='float32',
      ),
      sample=config.SampleConfig(
        num_steps=steps, guidance_weight=GUIDANCE, sampler='ddim'
      ),
    ),
    text=config.TextConfig(max_length=size.tokens, embed_dim=size.text_dim),
    optimizer=config.OptimizerConfig(name='adam', warmup_steps=0),
    train=config.TrainConfig(batch_size=size.batch),
  )


def imagen_pytorch_net(size: Size, steps: int):
  """lucidrains' Imagen of one U-Net, on the CPU."""
  import transformers

  # To import it asks Hugging Face how wide an encoder is that is not used here.
  own = transformers.T5Config(d_model=size.text_dim)
  with mock.patch.object(
    transformers.T5Config, 'from_pretrained', lambda *_, **__: own
  ):
    import imagen_pytorch

  first = size.channels[0]
  unet = imagen_pytorch.Unet(
    dim=first,
    dim_mults=tuple(width // first for width in size.channels),
    num_resnet_blocks=size.blocks,
    layer_attns=size.attention,
    layer_cross_attns=size.attention,
    attn_dim_head=HEAD_DIM,
    attn_heads=size.channels[-1] // HEAD_DIM,
    text_embed_dim=size.text_dim,
    max_text_len=size.tokens,
    cond_dim=4 * first,
  )
  return imagen_pytorch.Imagen(
    unets=(unet,),
    image_sizes=(size.pixels,),
    timesteps=steps,
    text_embed_dim=size.text_dim,
    cond_drop_prob=0.1,
    # Static thresholds: a quantile of a small image is no part of the net.
    dynamic_thresholding=False,
  )


def diffusers_net(size: Size):
  """diffusers' U-Net with the blocks that DeepFloyd's IF is made of."""
  import diffusers

  levels = len(size.channels)
  down = ['SimpleCrossAttnDownBlock2D'] * levels
  up = ['SimpleCrossAttnUpBlock2D'] * levels
  down[0], up[-1] = 'ResnetDownsampleBlock2D', 'ResnetUpsampleBlock2D'
  return diffusers.UNet2DConditionModel(
    sample_size=size.pixels,
    in_channels=3,
    out_channels=3,
    block_out_channels=size.channels,
    layers_per_block=size.blocks,
    down_block_types=down,
    up_block_types=up,
    mid_block_type='UNetMidBlock2DSimpleCrossAttn',
    attention_head_dim=HEAD_DIM,
    cross_attention_dim=4 * size.channels[0],
    encoder_hid_dim=size.text_dim,
    resnet_time_scale_shift='scale_shift',
    norm_num_groups=8,
    act_fn='silu',
  )


def torch_data(size: Size):
  """Images, embeddings and masks, as tensors."""
  import torch

  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count())
  images = torch.rand(size.batch, 3, size.pixels, size.pixels)
  embeds = torch.randn(size.batch, size.tokens, size.text_dim)
  masks = torch.ones(size.batch, size.tokens, dtype=torch.bool)
  return images, embeds, masks


def our_data(size: Size):
  """A `structs.Batch` of the same shapes."""
  import numpy as np

  from imagen_jax import structs

  rng = np.random.default_rng(0)
  shape = (size.batch, size.pixels, size.pixels, 3)
  text = structs.TextCond(
    rng.normal(size=(size.batch, size.tokens, size.text_dim)).astype('f4'),
    np.ones((size.batch, size.tokens), bool),
  )
  return structs.Batch(rng.uniform(-1, 1, shape).astype('f4'), text)


def table(rows: list[dict]) -> str:
  """Measurements in Markdown, with ours beside each peer."""
  names = {row['library']: row for row in rows}
  ours = names.get('imagen_jax')
  head = ['', 'images/s', 'GFLOP an image', 'GFLOP/s', 'peak memory, GiB']
  head += ['ours: images/s', 'ours: GFLOP/s', 'ours: memory']
  lines = [f'| {" | ".join(head)} |', f'| --- |{" ---: |" * (len(head) - 1)}']
  for row in rows:
    speed = row['batch'] / row['seconds']
    rate = speed * row['gflop_per_image']
    cells = [f'{speed:.2f}', f'{row["gflop_per_image"]:.1f}', f'{rate:.0f}']
    cells.append(f'{row["peak_bytes"] / 2**30:.2f}')
    beside = ['', '', '']
    if ours and row is not ours:
      fast = ours['batch'] / ours['seconds']
      beside = [
        f'{fast / speed:.2f} times',
        f'{fast * ours["gflop_per_image"] / rate:.2f} times',
        f'{ours["peak_bytes"] / row["peak_bytes"]:.2f} times',
      ]
    lines.append(f'| {row["library"]} | {" | ".join(cells + beside)} |')
  return '\n'.join(lines)

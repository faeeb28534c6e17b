"""The sizes of a U-Net."""

import dataclasses

from imagen_jax.config.checks import at_least
from imagen_jax.config.checks import one_of
from imagen_jax.config.checks import require


@dataclasses.dataclass(frozen=True)
class UNetConfig:
  """Sizes of one U-Net. Tuples have one entry a level, finest first.

  Attributes:
    design: 'base' is the BigGAN-style U-Net of the 64-pixel stage; 'efficient'
      is the paper's Efficient U-Net (appendix B.1), which resamples first.
    channels: width of each level.
    num_res_blocks: residual blocks of each level, on the way down; the way up
      mirrors it.
    self_attention: which levels attend over pixels.
    text_attention: which levels attend over text tokens.
    stem_stride: stride of the first convolution; 1 in the paper. 2 keeps
      every layer off the full-resolution grid, which small nets live by.
    coordinates: give the stem each pixel's place beside its colour; not in
      the paper. A net of few layers learns too slowly from the padding where
      in the picture it is.
    text_positions: add a learned vector to each token by its place; not in
      the paper. An encoder's output says faintly where a token stands, which
      a short run does not learn to read.
    head_dim: channels of an attention head.
    attention_expansion: width of all heads joined over a level's channels.
    embed_dim: width of the time-and-text embedding.
    num_groups: groups of a GroupNorm.
    residual_scale: what of a block's residual sum the Efficient U-Net scales
      by 1/sqrt 2: the 'sum', as Score-SDE and SR3 do, which the paper cites;
      the 'shortcut' alone, as NeMo; or 'none'.
    shortcut: where a block of it has a 1x1 convolution around its other two:
      'when_needed', if it changes the width, or 'always', as the paper draws.
    long_skip: how it joins a long skip on the way up: 'add', as the paper
      draws it, or 'concat'.
    long_skip_scale: what of that it scales by 1/sqrt 2: the 'sum', the 'skip'
      alone, or 'none'; a 'concat' has no sum. Concatenated skips scaled alone,
      with nothing scaled in the blocks, are lucidrains' reading.
    dropout: rate inside residual blocks.
    remat: rematerialise blocks (residual, attention) in the backward pass.
    remat_policy: what a level's blocks keep of themselves where `remat` is on:
      'full' rematerialises all but their inputs, 'products' all but what comes
      of convolutions and dense layers (attention's logits are not kept),
      'none' nothing. One entry a level, or one for all.
    scan: compile a level's like blocks once and loop over them, with their
      parameters stacked; the state and its checkpoints are the same. It does
      not pay as modelled (docs/performance.md): 1.29 times as slow without
      `remat`, no shorter to compile. One entry a level, or one for all.
    dtype: type of activations and matrix products; parameters are float32.
  """

  design: str = 'base'
  channels: tuple[int, ...] = (512, 1024, 1536, 2048)
  num_res_blocks: tuple[int, ...] = (3, 3, 3, 3)
  self_attention: tuple[bool, ...] = (False, True, True, True)
  text_attention: tuple[bool, ...] = (False, True, True, True)
  stem_stride: int = 1
  coordinates: bool = False
  text_positions: bool = False
  head_dim: int = 64
  attention_expansion: int = 1
  embed_dim: int = 2048
  num_groups: int = 32
  residual_scale: str = 'sum'
  shortcut: str = 'when_needed'
  long_skip: str = 'add'
  long_skip_scale: str = 'sum'
  dropout: float = 0.0
  remat: bool = True
  remat_policy: tuple[str, ...] = ('full',)
  scan: tuple[bool, ...] = (False,)
  dtype: str = 'bfloat16'

  def __post_init__(self):
    one_of('stage.unet.design', self.design, ('base', 'efficient'))
    one_of('stage.unet.dtype', self.dtype, ('bfloat16', 'float32'))
    self._check_sums()
    levels = len(self.channels)
    at_least('number of stage.unet.channels', levels, 1)
    for name in ('head_dim', 'attention_expansion', 'embed_dim', 'num_groups'):
      at_least(f'stage.unet.{name}', getattr(self, name), 1)
    for name in ('channels', 'num_res_blocks'):
      for level, value in enumerate(getattr(self, name)):
        at_least(f'stage.unet.{name}[{level}]', value, 1)
    for name in ('num_res_blocks', 'self_attention', 'text_attention'):
      value = getattr(self, name)
      require(
        len(value) == levels,
        f'stage.unet.{name} has {len(value)} entries, stage.unet.channels '
        f'has {levels}; accepted: one entry a level in both',
      )
    for name in ('remat_policy', 'scan'):
      value = getattr(self, name)
      require(
        len(value) in (1, levels),
        f'stage.unet.{name} has {len(value)} entries, stage.unet.channels '
        f'has {levels}; accepted: one entry a level, or one for all',
      )
    for policy in self.remat_policy:
      one_of('stage.unet.remat_policy', policy, ('none', 'full', 'products'))
    require(
      not (any(self.scan) and self.dropout),
      f'stage.unet.scan is {self.scan} with stage.unet.dropout '
      f'{self.dropout}; accepted: scan without dropout, whose draws it changes',
    )
    one_of('stage.unet.stem_stride', self.stem_stride, (1, 2, 4, 8))
    require(
      0 <= self.dropout < 1,
      f'stage.unet.dropout is {self.dropout!r}; accepted: [0, 1)',
    )
    for level, width in enumerate(self.channels):
      require(
        width % self.num_groups == 0,
        f'stage.unet.channels[{level}] is {width}; accepted: multiples of '
        f'stage.unet.num_groups ({self.num_groups})',
      )
      if self.self_attention[level] or self.text_attention[level]:
        joined = width * self.attention_expansion
        require(
          joined % self.head_dim == 0,
          f'stage.unet.channels[{level}] x attention_expansion is {joined}; '
          f'accepted: multiples of stage.unet.head_dim ({self.head_dim})',
        )

  def _check_sums(self):
    """Raises ValueError unless blocks and long skips can be joined so."""
    accepted = {
      'residual_scale': ('sum', 'shortcut', 'none'),
      'shortcut': ('when_needed', 'always'),
      'long_skip': ('add', 'concat'),
      'long_skip_scale': ('sum', 'skip', 'none'),
    }
    for name, values in accepted.items():
      value = getattr(self, name)
      one_of(f'stage.unet.{name}', value, values)
      require(
        self.design == 'efficient' or value == values[0],
        f'stage.unet.{name} is {value!r} with stage.unet.design '
        f'{self.design!r}; accepted: {values[0]!r}, or stage.unet.design '
        'efficient',
      )
    require(
      self.long_skip == 'add' or self.long_skip_scale != 'sum',
      f"stage.unet.long_skip_scale is 'sum' with stage.unet.long_skip "
      f"{self.long_skip!r}; accepted: 'skip', 'none'",
    )

  def at_level(self, name: str, level: int):
    """A level's entry of a field that may have one for all."""
    value = getattr(self, name)
    return value[level] if len(value) > 1 else value[0]

  @property
  def downsampling(self) -> int:
    """How many image pixels a side one pixel of the coarsest level covers."""
    levels = len(self.channels)
    steps = levels if self.design == 'efficient' else levels - 1
    return self.stem_stride * 2**steps

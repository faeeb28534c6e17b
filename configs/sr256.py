r"""The 64 to 256 super-resolution stage: paper, appendices B.1 and F.2.

The Efficient U-Net, literally as its printed dictionary has it (the row
`five_level` is the other reading), global batch 2048, 2.5M
steps; the paper used 128 TPU v4 chips.

    imagen-jax train --config configs/sr256.py --workdir gs://BUCKET/sr256 \
        --set text.store=gs://BUCKET/text \
        --set data.tasks.pairs.path=gs://BUCKET/pairs

Not trained here yet.
"""

from imagen_jax import config

ROWS = {
  # The four blocks of the printed dictionary, which is what is shipped.
  'printed': {},
  # Five levels, as other readers have it: one more of 1024 channels, with
  # attention in the last two. Further from the paper's rounded total.
  'five_level': {
    'stage.unet.channels': '[128, 256, 512, 1024, 1024]',
    'stage.unet.num_res_blocks': '[2, 4, 8, 8, 8]',
    'stage.unet.self_attention': '[false, false, false, true, true]',
    'stage.unet.text_attention': '[false, false, false, true, true]',
  },
}
PAPER_PARAMETERS = {'printed': 600_000_000, 'five_level': 600_000_000}


def get_config(row: str = 'printed') -> config.Config:
  """Returns the config of one of `ROWS`."""
  printed = config.Config(
    stage=config.StageConfig(
      name='sr256',
      image_size=256,
      lowres_size=64,
      unet=config.UNetConfig(
        design='efficient',
        channels=(128, 256, 512, 1024),
        num_res_blocks=(2, 4, 8, 8),
        self_attention=(False, False, False, True),
        text_attention=(False, False, False, True),
        # 8 heads over twice the level's width (figure A.28).
        head_dim=256,
        attention_expansion=2,
        embed_dim=512,
        shortcut='always',  # As drawn (appendix B.1).
        # 10 of the 95 GiB of a v5p at 32 images (modelled:
        # docs/performance.md).
        remat_policy=('none',),
      ),
      diffusion=config.DiffusionConfig(schedule='cosine'),
      sample=config.SampleConfig(
        num_steps=128, guidance_weight=5.0, aug_level=0.1
      ),
    ),
    data=config.DataConfig(tasks=(config.TaskConfig('pairs', path=''),)),
    optimizer=config.OptimizerConfig(name='adam', stacked=True),
    mesh=config.MeshConfig(data=-1, fsdp=8),
    train=config.TrainConfig(eval_every=5000),
  )
  return config.override(printed, [f'{k}={v}' for k, v in ROWS[row].items()])

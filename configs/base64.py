r"""The 64-pixel base stage: paper, section 2.5, appendix F.1.

2B parameters, global batch 2048, 2.5M steps; the paper used 256 TPU v4 chips.

    imagen-jax train --config configs/base64.py --workdir gs://BUCKET/base64 \
        --set text.store=gs://BUCKET/text \
        --set data.tasks.pairs.path=gs://BUCKET/pairs

The rows `:1b`, `:500m` and `:300m` are the ablations' sizes.

Zero-shot COCO FID of the paper's cascade: 7.27. Not trained here yet.
"""

from imagen_jax import config

# The paper compares sizes of the base (appendix D.3) and prints the largest
# alone. The others are ours: the same net at another width, whose trunk (what
# is not text's) has about as many parameters as the paper's name says.
ROWS = {
  '2b': {},
  # 352 channels times 1 to 4, but for the third level, whose heads of 64
  # would not fill 1056.
  '1b': {
    'stage.unet.channels': '[352, 704, 1024, 1408]',
    'stage.unet.embed_dim': '1408',
  },
  '500m': {
    'stage.unet.channels': '[256, 512, 768, 1024]',
    'stage.unet.embed_dim': '1024',
  },
  '300m': {
    'stage.unet.channels': '[192, 384, 576, 768]',
    'stage.unet.embed_dim': '768',
  },
}
PAPER_PARAMETERS = {
  '2b': 2_000_000_000,
  '1b': 1_000_000_000,
  '500m': 500_000_000,
  '300m': 300_000_000,
}


def get_config(row: str = '2b') -> config.Config:
  """Returns the config of one of `ROWS`."""
  largest = config.Config(
    stage=config.StageConfig(
      name='base64',
      image_size=64,
      unet=config.UNetConfig(
        design='base',
        channels=(512, 1024, 1536, 2048),
        num_res_blocks=(3, 3, 3, 3),
        self_attention=(False, True, True, True),
        text_attention=(False, True, True, True),
        head_dim=64,
        embed_dim=2048,
        # 27 of the 95 GiB of a v5p at 16 images, and faster than 'full', which
        # keeps least (modelled: docs/performance.md).
        remat_policy=('none',),
      ),
      diffusion=config.DiffusionConfig(schedule='cosine'),
      sample=config.SampleConfig(num_steps=256, guidance_weight=7.5),
    ),
    data=config.DataConfig(tasks=(config.TaskConfig('pairs', path=''),)),
    optimizer=config.OptimizerConfig(name='adafactor', stacked=True),
    mesh=config.MeshConfig(data=-1, fsdp=16),
    train=config.TrainConfig(eval_every=5000),
  )
  return config.override(largest, [f'{k}={v}' for k, v in ROWS[row].items()])

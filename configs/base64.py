r"""The 64-pixel base stage: paper, section 2.5, appendix F.1.

2B parameters, global batch 2048, 2.5M steps; the paper used 256 TPU v4 chips.

    imagen-jax train --config configs/base64.py --workdir gs://BUCKET/base64 \
        --set text.store=gs://BUCKET/embeddings \
        --set data.tasks.pairs.path=gs://BUCKET/pairs

Zero-shot COCO FID of the paper's cascade: 7.27. Not trained here yet.
"""

from imagen_jax import config


def get_config() -> config.Config:
  """Returns the run's config."""
  return config.Config(
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
      ),
      diffusion=config.DiffusionConfig(schedule='cosine'),
      sample=config.SampleConfig(num_steps=256, guidance_weight=7.5),
    ),
    data=config.DataConfig(tasks=(config.TaskConfig('pairs', path=''),)),
    optimizer=config.OptimizerConfig(name='adafactor'),
    mesh=config.MeshConfig(data=-1, fsdp=16),
  )

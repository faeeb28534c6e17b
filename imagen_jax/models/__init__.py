"""The networks: Linen modules that know nothing of diffusion."""

"""Makes a model pack (the diffusers ONNX layout) of a Stable Diffusion model in PyTorch. See docs/export.md."""

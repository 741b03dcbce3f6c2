//! Tensors on a device and the few element-wise kernels between the networks.

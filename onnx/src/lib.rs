//! Model packs and their networks on ONNX Runtime: CPU, OpenVINO, CUDA, TensorRT.

"""The model of Triton's Python backend that runs a U-Net: repository.py puts it into the repository, with the graph's path in the
model's parameters. What the wire carries is of config.pbtxt's types, what the graph takes of its own."""

import json
import time

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.delay = float(parameters["delay_ms"]) / 1000
        self.batches = config["max_batch_size"] > 0
        self.wire = {output["name"]: pb_utils.triton_string_to_numpy(output["data_type"]) for output in config["output"]}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters["threads"])
        # Whoever calls computes on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(parameters["onnx"], options, providers=["CPUExecutionProvider"])
        self.inputs = [(node.name, NUMPY[node.type], len(node.shape)) for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]

    def execute(self, requests):
        """One run for all requests that Triton has put together; they differ in nothing but their rows."""
        if not self.batches:
            return [self.answer([request])[0] for request in requests]
        return self.answer(requests)

    def answer(self, requests):
        time.sleep(self.delay)
        rows = []
        feed = {}
        for name, kind, rank in self.inputs:
            parts = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            rows = [len(part) for part in parts]
            value = np.concatenate(parts).astype(kind, copy=False)
            # A number for each row is [rows, 1] on the wire and [rows] here.
            feed[name] = value.reshape(value.shape[:rank])
        try:
            values = self.session.run(self.outputs, feed)
        except Exception as error:
            failure = pb_utils.TritonError(str(error))
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        answers = []
        start = 0
        for count in rows:
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(value[start : start + count], dtype=self.wire[name]))
                for name, value in zip(self.outputs, values)
            ]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start += count
        return answers

# Everything that a newcomer needs: make demo, make test. Each target sets up what it needs and is quiet when nothing is
# to be done.

CARGO ?= cargo
BINARY := target/release/livediffusion

PLUGINS := target/gstreamer-1.0

.PHONY: help setup setup-cuda setup-tensorrt setup-webgpu setup-tensorrt-rtx build plugin demo webcam test test-gpu-tools test-cuda test-remote test-export test-train quality bench peers report lint clean
.DEFAULT_GOAL := help

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: ## install the Debian packages and the ONNX Runtime library
	@tools/setup/packages.sh
	@tools/setup/ort.sh

setup-cuda: ## fetch ONNX Runtime for NVIDIA cards and CUDA into the user's cache (2 GB): CUDA=12 or CUDA=13
	@tools/setup/cuda.sh $(or $(CUDA),12)

setup-tensorrt: ## fetch TensorRT from NVIDIA's index beside those (2 GB), for --provider tensorrt: CUDA=12 or CUDA=13
	@tools/setup/tensorrt.sh $(or $(CUDA),12)

setup-webgpu: ## fetch ONNX Runtime's WebGPU plug-in into the user's cache (35 MB), for --provider webgpu
	@tools/setup/webgpu.sh

setup-tensorrt-rtx: ## fetch NVIDIA's TensorRT for RTX into the user's cache (0.2 GB), for --provider tensorrt-rtx: CUDA=12 or CUDA=13
	@tools/setup/tensorrt-rtx.sh $(or $(CUDA),12)

build: setup ## build the binary
	@$(CARGO) build --release --locked --quiet

# Built beside the binary, so that what both are made of is compiled once.
plugin: setup ## build the element of GStreamer: target/gstreamer-1.0
	@$(CARGO) build --release --locked --quiet --package livediffusion --package livediffusion-gst
	@mkdir -p $(PLUGINS)
	@cp $${CARGO_TARGET_DIR:-target}/release/libgstlivediffusion.so $(PLUGINS)/
	@echo "export GST_PLUGIN_PATH=$(CURDIR)/$(PLUGINS)    # then: gst-inspect-1.0 livediffusion"

demo: build ## repaint the bundled clip: out/demo.mp4 and out/demo.png
	@$(BINARY) demo

webcam: build ## serve a page on which you see yourself repainted: http://127.0.0.1:7860
	@$(BINARY) webcam

test: setup ## run all tests
	@tools/setup/browser.sh
	@tools/setup/webgpu.sh || echo "without the plug-in WebGPU is not tested in this run"
	@tools/setup/nvrtc.sh || echo "without NVRTC the CUDA kernels are not compiled in this run"
	@command -v cargo-nextest >/dev/null || $(CARGO) install --locked --quiet cargo-nextest --version 0.9.143
	@$(CARGO) nextest run --workspace --locked --no-fail-fast; status=$$?; tools/setup/skipped.sh; exit $$status

test-gpu-tools: setup ## rehearse tools/gpu on the CPU: pieces, a machine without GStreamer, the whole measurement
	@tools/gpu/test.sh

test-cuda: setup ## run ONNX Runtime's CUDA and TensorRT providers on ones that do nothing, have TensorRT for RTX compile (fetches 0.45 GB)
	@$(CARGO) build --locked --quiet
	@LIVEDIFFUSION_BINARY=$${CARGO_TARGET_DIR:-target}/debug/livediffusion tools/gpu/null/test.sh $(or $(CUDA),13)
	@tools/gpu/null/rtx.sh $(or $(CUDA),13)

test-remote: setup ## run the U-Net on a real Triton server, on the CPU, that goes away and comes back (fetches 91 MB)
	@$(CARGO) build --locked --quiet
	@LIVEDIFFUSION_BINARY=$${CARGO_TARGET_DIR:-target}/debug/livediffusion tools/remote/test.sh

test-export: build ## test tools/export: packs made of PyTorch models (sets up 2 GB of Python)
	@tools/export/test.sh

test-train: ## test tools/train and tools/quality on drawn pictures (sets up 2 GB of Python)
	@tools/train/test.sh

quality: ## measure the default pack on held-out pictures and draw its contact sheets: out/quality (sets up 2 GB of Python)
	@tools/quality/quality.sh --model models/default

bench: build ## measure speed in a few minutes, into bench/record
	@$(BINARY) bench startup --record
	@$(BINARY) bench throughput --frame-buffers 1 --rounds 3 --record
	@$(BINARY) bench overhead --rounds 3 --record
	@$(BINARY) bench rcfg --frames 10 --rounds 3 --record
	@$(BINARY) bench stream-batch --frames 10 --record
	@$(BINARY) bench ablation --frames 40 --rounds 3 --record
	@$(BINARY) bench similarity --frames 60 --rounds 3 --record
	@$(BINARY) bench latency --frames 60 --record
	@$(BINARY) bench scaling --rounds 3 --record
	@$(BINARY) bench roofline --rounds 5 --record

peers: build ## measure the same model in Python beside ours, into bench/record (sets up 2 GB)
	@tools/peers/setup.sh
	@$(BINARY) bench compare --record

report: build ## write bench/record into the README and draw it: out/bench
	@$(BINARY) bench report
	@$(BINARY) bench plot

lint: setup ## check formatting, clippy and the documentation
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked --quiet -- --deny warnings
	@$(CARGO) clippy --package livediffusion --no-default-features --locked --quiet -- --deny warnings
	@RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

clean: ## remove what was built; the ONNX Runtime library stays in the user's cache
	@$(CARGO) clean --quiet
	@rm -rf out

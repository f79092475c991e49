# make demo      everything, from packages to answers, on a fresh Debian 12
# make test      builds and runs the tests, training's too after make training-venv
# make build     leaves build/release/bin/msa
# make model     leaves models/smollm2-135m-instruct/
# make bench     runs the benchmarks, writes benchmarks/results/<date>.json
# make dist      packs build/dist/msa-VERSION-linux-ARCH.tar.gz, which runs without any package
# make packages  installs the Debian packages (root or sudo)
SHELL := bash
BUILD := build/release
MODEL := models/smollm2-135m-instruct

.PHONY: demo test bench dist build model training-venv packages configure clean

demo: build model
	@scripts/demo.sh

# A failed test once more: gRPC before 1.61 may take another call's errno for that of connect(), and
# fail a first connection to a server that is there (grpc/grpc#35064). What fails twice is ours.
test: configure model
	@scripts/unpack_prometheus.sh build/prometheus
	cmake --build $(BUILD)
	ctest --test-dir $(BUILD) --output-on-failure -j 2 --repeat until-pass:2

bench: packages
	@scripts/install_packages.sh --bench
	@$(MAKE) --no-print-directory configure model
	cmake --build $(BUILD)
	@scripts/make_peers.sh build/peers
	scripts/bench.py --bin $(BUILD)/benchmarks --out benchmarks/results

build: configure
	cmake --build $(BUILD) --target msa

dist: build
	@scripts/make_dist.sh $(BUILD) build/dist

model: packages
	@scripts/make_model.sh $(MODEL)

training-venv: packages
	@scripts/make_training_venv.sh

configure: packages
	@cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release >$(BUILD).log 2>&1 || \
	  { cat $(BUILD).log; exit 1; }

packages:
	@scripts/install_packages.sh
	@mkdir -p $(BUILD)

clean:
	rm -rf build demo-data

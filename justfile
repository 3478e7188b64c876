# Six verbs. `just --list` shows them.

# Everything a change must pass: the same as CI.
check:
    tests/run

# The tests that take seconds.
test:
    cargo test --workspace --features courser-store/conformance

# The tests that take minutes: kill -9 and other faults under the real binary, its bounds, clients in Python, the container.
slow:
    tests/run build crash faults bounds tour python container

# Load against a broker that runs (`just run` in another terminal). See docs/performance.md.
bench *FLAGS:
    cargo run --release -- bench {{FLAGS}}

# The broker, on the default ports.
run *FLAGS:
    cargo run --release -- serve {{FLAGS}}

# The image, by whichever builder is there.
docker:
    $(command -v docker || command -v buildah) build -t courser -f docker/Dockerfile .

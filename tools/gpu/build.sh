#!/usr/bin/env bash
# Builds build/cuda/trestle and the tests with what the archive holds and the python's torch. TORCH=cpu builds against a torch
# without CUDA, which shows the archive whole on a machine without a card.
set -euo pipefail
cd "$(dirname "$0")"
python=$(command -v "${PYTHON:-python3}")
prefix=$("$python" -c 'import sys; print(sys.prefix)')
flags=(-DTRESTLE_VENV="$prefix" -DTRESTLE_PACKAGES="$PWD/packages" -DTRESTLE_HTTP=OFF)
if [[ ${TORCH:-cuda} == cuda ]]; then
  preset=cuda
  flags+=(-DTRESTLE_TORCH_PYTHON="$python")
else
  preset=release
fi
start=$SECONDS
cmake --preset "$preset" "${flags[@]}"
cmake --build "build/$preset" --parallel "${JOBS:-$(nproc)}" --target trestle ${TARGETS:-bridge_test generate_test train_test}
echo "built build/$preset/trestle in $((SECONDS - start)) s"

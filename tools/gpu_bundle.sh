#!/usr/bin/env bash
# Packs what a machine with a card needs that has no network, no root and none of the distribution's packages: the committed
# sources, and the packages as headers and static libraries, so that nothing of it can clash with the machine's own. There:
#
#   tar -xJf trestle-gpu.tar.xz && cd trestle-gpu
#   PYTHON=python3 ./build.sh      # a python with a CUDA build of torch (2.11 to 2.14), pyarrow, cmake and ninja
#   PYTHON=python3 ./check.sh OUT  # ctest -L gpu, bench/kernels.py and bench/gpu.py; OUT/gpu.json, OUT/gpu.md
#
#   tools/gpu_bundle.sh [OUT]      # default: trestle-gpu.tar.xz
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-trestle-gpu.tar.xz}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/trestle-gpu
mkdir -p "$root/packages/include" "$root/packages/lib" "$root/packages/fmt"

# Of tests only what ctest -L gpu reads; the CPU's goldens of the demo stay, as the card is held to them.
git archive HEAD | tar -xf - -C "$root"
cp tools/gpu/build.sh tools/gpu/check.sh "$root"

lib=$(dirname "$(gcc -print-file-name=libz.a)")
for name in jpeg png16 z webp deflate pcre2-8 yaml-cpp crypto gtest; do
  file=$lib/lib$name.a
  [[ -e $file ]] || { echo "$file is missing: run tools/setup.sh" >&2; exit 2; }
  strip --strip-debug -o "$root/packages/lib/lib${name/png16/png}.a" "$file"
done
system=/usr/include
multiarch=$system/$(gcc -print-multiarch)
for name in nlohmann CLI yaml-cpp webp openssl gtest libpng16; do cp -r "$system/$name" "$root/packages/include"; done
cp "$system"/{jpeglib,jmorecfg,jerror,png,pngconf,pnglibconf,zlib,zconf,libdeflate,pcre2}.h "$root/packages/include"
# Headers of one processor.
cp "$multiarch/jconfig.h" "$root/packages/include"
cp -r "$multiarch/openssl" "$root/packages/include"
cp -r "$system/fmt" "$root/packages/fmt"

tar -C "$folder" -cf - trestle-gpu | xz -T0 -6 >"$out.part"
mv "$out.part" "$out"
size=$(stat -c %s "$out")
printf '%s: %d MB, commit %s\n' "$out" $((size / 1000000)) "$(git rev-parse --short HEAD)"
((size < 60000000)) || { echo "over 60 MB" >&2; exit 1; }

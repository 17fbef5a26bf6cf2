#!/usr/bin/env bash
# libtorch's CMake package: at::parallel_for in a program's own code runs on one thread, whatever at::get_num_threads() says.
#
# Version: torch 2.13.0 (CPU), its own TorchConfig.cmake, g++. Seen 2026-11-30.
#
# Expected: a program that links the package's targets and calls at::parallel_for, the documented way of giving a loop to
#   libtorch's threads, uses as many threads as at::get_num_threads() tells; at::get_parallel_info() says that OpenMP is on.
# What happens: parallel_for is a template that is compiled where it is called, and its parallel half is there only where
#   _OPENMP is defined. Neither `torch` nor TORCH_CXX_FLAGS brings -fopenmp, so the loop runs on the caller's thread, with no
#   warning at compile time, link time or run time. libtorch's own operators use all threads, which hides it: only the loops of
#   the program itself are slow. With -fopenmp the same source uses all of them.
#
# Output:
#   package's flags: OpenMP yes, get_num_threads 4, parallel_for on 1 thread
#   with -fopenmp:   OpenMP yes, get_num_threads 4, parallel_for on 4 threads
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 cmake==3.31.6

cat >"$folder/main.cpp" <<'CPP'
#include <ATen/Parallel.h>

#include <cstdio>
#include <mutex>
#include <set>
#include <string>
#include <thread>

int main() {
  at::set_num_threads(4);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, 1000, 1, [&](int64_t, int64_t) {
    const std::scoped_lock lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  const bool openmp = at::get_parallel_info().find("ATen parallel backend: OpenMP") != std::string::npos;
  std::printf("OpenMP %s, get_num_threads %d, parallel_for on %zu thread%s\n", openmp ? "yes" : "no", at::get_num_threads(),
              seen.size(), seen.size() == 1 ? "" : "s");
}
CPP
cat >"$folder/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.22)
project(parallel LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(Torch REQUIRED)
set(CMAKE_CXX_FLAGS "${CMAKE_CXX_FLAGS} ${TORCH_CXX_FLAGS}")
add_executable(main main.cpp)
target_link_libraries(main "${TORCH_LIBRARIES}")
CMAKE

said() {
  "$folder/venv/bin/cmake" -S "$folder" -B "$folder/$1" -DCMAKE_CXX_FLAGS="$2" \
    -DCMAKE_PREFIX_PATH="$("$folder/venv/bin/python" -c 'import torch; print(torch.utils.cmake_prefix_path)')" >"$folder/log" 2>&1
  "$folder/venv/bin/cmake" --build "$folder/$1" >>"$folder/log" 2>&1 || { cat "$folder/log"; return 1; }
  "$folder/$1/main"
}
plain=$(said plain "")
openmp=$(said openmp "-fopenmp")
echo "package's flags: $plain"
echo "with -fopenmp:   $openmp"
if [ "$plain" = "OpenMP yes, get_num_threads 4, parallel_for on 1 thread" ] &&
  [ "$openmp" = "OpenMP yes, get_num_threads 4, parallel_for on 4 threads" ]; then
  echo "as described"
else
  echo "CHANGED"
  exit 1
fi

# Everything that is not ours. tools/setup.sh installs it; the wheels live in .venv.
set(TRESTLE_VENV ${CMAKE_SOURCE_DIR}/.venv CACHE PATH "virtual environment with torch and pyarrow")
set(python ${TRESTLE_VENV}/bin/python)
if(NOT EXISTS ${python})
  message(FATAL_ERROR "${python} is missing; run tools/setup.sh first (or make)")
endif()
execute_process(
  COMMAND ${python} -c "import torch.utils, pyarrow, importlib.util
print(torch.utils.cmake_prefix_path, pyarrow.get_include(), pyarrow.get_library_dirs()[0], sep=';')"
  OUTPUT_VARIABLE paths OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
list(GET paths 0 torch_prefix)
list(GET paths 1 arrow_include)
list(GET paths 2 arrow_lib)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
    CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${CCACHE})
  # Without these a precompiled header is never found in the cache.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
  else()
    add_compile_options(-fpch-preprocess)
  endif()
endif()

set(CMAKE_FIND_PACKAGE_PREFER_CONFIG OFF)
if(TRESTLE_TORCH_PYTHON OR TRESTLE_CUDA)
  include(cmake/torch_cuda.cmake)
else()
  list(APPEND CMAKE_PREFIX_PATH ${torch_prefix})
  find_package(Torch REQUIRED)
endif()
option(TRESTLE_HTTP "models, data and pictures from URLs; needs libcurl" ON)
set(TRESTLE_PACKAGES "" CACHE PATH "static libraries in place of the system's packages (tools/gpu_bundle.sh)")
if(TRESTLE_PACKAGES)
  include(cmake/packages.cmake)
else()
  find_package(fmt REQUIRED)
  find_package(nlohmann_json REQUIRED)
  find_package(yaml-cpp REQUIRED)
  find_package(CLI11 REQUIRED)
  find_package(JPEG REQUIRED)
  find_package(PNG REQUIRED)
  if(TRESTLE_HTTP)
    find_package(CURL REQUIRED)
  endif()
  find_package(OpenSSL REQUIRED)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp)
  pkg_check_modules(DEFLATE REQUIRED IMPORTED_TARGET libdeflate)
  pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
endif()

# What speaks of tensors sees libtorch's headers of fmt, which are newer than the system's.
add_library(trestle_fmt STATIC cmake/fmt.cpp)
target_include_directories(trestle_fmt SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS})
add_library(trestle_tensors INTERFACE)
target_link_libraries(trestle_tensors INTERFACE torch trestle_fmt nlohmann_json::nlohmann_json)
target_include_directories(trestle_tensors SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
# at::parallel_for is a template of libtorch's headers: where it is compiled without OpenMP it runs on one thread and says
# nothing, and the package's targets do not ask for it. The runtime is libtorch's own, as two would each have a pool of
# threads. Not under the thread sanitizer, which does not see how libgomp's threads wait for each other.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT TRESTLE_TSAN)
  list(GET TORCH_INCLUDE_DIRS 0 torch_include)
  file(GLOB openmp ${torch_include}/../lib/libgomp*.so*)
  set(openmp_flag -fopenmp)  # of what is compiled with libtorch's precompiled headers: cmake/precompiled.cmake
  target_link_libraries(trestle_tensors INTERFACE $<IF:$<BOOL:${openmp}>,${openmp},-fopenmp>)
endif()

file(GLOB arrow_library ${arrow_lib}/libarrow.so.*)
file(GLOB parquet_library ${arrow_lib}/libparquet.so.*)
add_library(trestle_arrow INTERFACE)
target_include_directories(trestle_arrow SYSTEM INTERFACE ${arrow_include})
target_link_libraries(trestle_arrow INTERFACE ${arrow_library} ${parquet_library})
set(CMAKE_BUILD_RPATH ${arrow_lib})

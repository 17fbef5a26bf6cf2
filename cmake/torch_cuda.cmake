# A CUDA build of torch in place of the pinned wheel's: the target `torch` and TORCH_INCLUDE_DIRS, as find_package(Torch)
# makes them. Preset cuda, `make cuda TORCH_PYTHON=/path/to/python`.
option(TRESTLE_CUDA "against a CUDA build of torch, that of TRESTLE_TORCH_PYTHON" OFF)
set(TRESTLE_TORCH_PYTHON "" CACHE FILEPATH "a python that has a CUDA build of torch, 2.11 to 2.14")
set(oldest_torch 2.11)
set(newest_torch 2.14)
if(NOT TRESTLE_TORCH_PYTHON)
  message(FATAL_ERROR "TRESTLE_TORCH_PYTHON is not set: give it a python that has a CUDA build of torch "
    "(make cuda TORCH_PYTHON=/path/to/python)")
endif()
# The interpreter and not torch itself is asked for the folder: importing torch loads every library of CUDA.
execute_process(
  COMMAND ${TRESTLE_TORCH_PYTHON} -c "import importlib.util, pathlib, runpy
folder = pathlib.Path(importlib.util.find_spec('torch').origin).parent
version = runpy.run_path(str(folder / 'version.py'))
print(folder, version['__version__'].split('+')[0], version['cuda'] or 'none', sep=';')"
  OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_VARIABLE why RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "TRESTLE_TORCH_PYTHON=${TRESTLE_TORCH_PYTHON} has no torch, or is no python:\n${why}")
endif()
list(GET found 0 torch_folder)
list(GET found 1 torch_version)
list(GET found 2 torch_cuda)
if(torch_cuda STREQUAL none)
  message(FATAL_ERROR "torch ${torch_version} in ${torch_folder} is no CUDA build; install one that is, or build "
    "without CUDA (preset release)")
endif()
string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_minor ${torch_version})
if(torch_minor VERSION_LESS oldest_torch OR torch_minor VERSION_GREATER newest_torch)
  message(FATAL_ERROR "torch ${torch_version} in ${torch_folder}: versions ${oldest_torch} to ${newest_torch} are known "
    "to build")
endif()

# Its own CMake package wants a whole CUDA toolkit, and takes whichever it finds: one of another major version would put
# two runtimes of CUDA into the program.
find_package(CUDAToolkit QUIET)
string(REGEX MATCH "^[0-9]+" torch_cuda_major ${torch_cuda})
if(CUDAToolkit_FOUND AND CUDAToolkit_VERSION_MAJOR EQUAL torch_cuda_major AND TARGET CUDA::cudart)
  get_filename_component(CUDA_TOOLKIT_ROOT_DIR ${CUDAToolkit_BIN_DIR} DIRECTORY)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  set(TORCH_CUDA_ARCH_LIST "8.0;9.0a" CACHE STRING "of the package's own flags")
  list(APPEND CMAKE_PREFIX_PATH ${torch_folder}/share/cmake)
  find_package(Torch REQUIRED)
  set(TRESTLE_NVCC ${CUDAToolkit_NVCC_EXECUTABLE})
  set(torch_by "its CMake package and the toolkit ${CUDAToolkit_VERSION} in ${CUDA_TOOLKIT_ROOT_DIR}")
else()
  # The libraries alone: each finds what it needs of CUDA by its own RPATH.
  set(TORCH_INCLUDE_DIRS ${torch_folder}/include ${torch_folder}/include/torch/csrc/api/include)
  set(torch_libraries "")
  foreach(name torch torch_cpu torch_cuda c10 c10_cuda)
    if(NOT EXISTS ${torch_folder}/lib/lib${name}.so)
      message(FATAL_ERROR "${torch_folder}/lib has no lib${name}.so; is this a whole CUDA build of torch?")
    endif()
    list(APPEND torch_libraries ${torch_folder}/lib/lib${name}.so)
  endforeach()
  add_library(torch INTERFACE IMPORTED)
  target_include_directories(torch INTERFACE ${TORCH_INCLUDE_DIRS})
  # Nothing of ours names a symbol of torch_cuda, which is known by what it registers when it is loaded.
  target_link_libraries(torch INTERFACE -Wl,--push-state,--no-as-needed ${torch_libraries} -Wl,--pop-state)
  set(torch_by "its libraries alone (no CUDA toolkit ${torch_cuda_major} was found)")
endif()
message(STATUS "torch ${torch_version} with CUDA ${torch_cuda} in ${torch_folder}, by ${torch_by}")
if(TRESTLE_NVCC)
  message(STATUS "CUDA kernels of src/cuda by ${TRESTLE_NVCC}")
else()
  message(STATUS "no CUDA kernels: there is no nvcc of CUDA ${torch_cuda_major}; a card runs torch's operators alone")
endif()
# Ranks on cards: c10d's header of NCCL speaks of NCCL's own and of CUDA's libraries, which torch brings as packages beside
# it; else the system's.
string(REGEX MATCH "^[0-9]+" cuda_major ${torch_cuda})
find_path(TRESTLE_NCCL_INCLUDE nccl.h HINTS ${torch_folder}/../nvidia/nccl/include)
find_path(TRESTLE_CUDA_LIBRARIES_INCLUDE cusparse.h
  HINTS ${torch_folder}/../nvidia/cu${cuda_major}/include ${CUDAToolkit_INCLUDE_DIRS})
if(TRESTLE_NCCL_INCLUDE AND TRESTLE_CUDA_LIBRARIES_INCLUDE)
  message(STATUS "ranks on cards by NCCL, ${TRESTLE_NCCL_INCLUDE}")
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/parallel/nccl.cpp PROPERTIES COMPILE_DEFINITIONS TRESTLE_NCCL
    INCLUDE_DIRECTORIES "${CUDAToolkit_INCLUDE_DIRS};${TRESTLE_NCCL_INCLUDE};${TRESTLE_CUDA_LIBRARIES_INCLUDE}")
else()
  message(STATUS "no NCCL: several ranks run on CPUs alone; nccl.h or cusparse.h is missing")
endif()

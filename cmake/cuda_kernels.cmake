# The kernels of src/cuda as the library trestle_cuda. By nvcc's own command and not CMake's language CUDA, whose flags
# torch's package fills with what its extensions need and these files, which know nothing of torch, do not: sm_80 and
# sm_90a as they are, and PTX for what comes. As tests/lint/cuda_compiles.py compiles them.
file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cuda/*.cu)
file(GLOB kernel_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cuda/*.h ${CMAKE_SOURCE_DIR}/src/cuda/*.cuh)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
set(objects "")
foreach(source ${kernels})
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${TRESTLE_NVCC} -std=c++20 -O3 -ccbin ${CMAKE_CXX_COMPILER} -Xcompiler=-fPIC -I${CMAKE_SOURCE_DIR}/src
      "-gencode=arch=compute_80,code=[sm_80,compute_80]" -gencode=arch=compute_90a,code=sm_90a
      -c ${source} -o ${object}
    DEPENDS ${source} ${kernel_headers} COMMENT "Building CUDA object cuda/${name}.o" VERBATIM)
  list(APPEND objects ${object})
endforeach()
add_library(trestle_cuda STATIC ${objects})
set_target_properties(trestle_cuda PROPERTIES LINKER_LANGUAGE CXX)
# The runtime that torch has loaded, not one of our own.
target_link_libraries(trestle_cuda PUBLIC CUDA::cudart)
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/kernels/cuda_kernels.cpp PROPERTIES
  COMPILE_DEFINITIONS TRESTLE_CUDA_KERNELS)
# libtorch's header of graphs includes CUDA's.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/kernels/graph.cpp PROPERTIES
  COMPILE_DEFINITIONS TRESTLE_CUDA_KERNELS INCLUDE_DIRECTORIES "${CUDAToolkit_INCLUDE_DIRS}")

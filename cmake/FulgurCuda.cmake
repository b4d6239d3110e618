# FULGUR_CUDA: ON, OFF, or AUTO, which takes the CUDA back end where an nvcc that compiles it is and says nothing where
# there is none. Sets FULGUR_HAS_CUDA. Included at the top, since a language is enabled for a whole tree.

set(FULGUR_CUDA AUTO CACHE STRING "The back end for NVIDIA GPUs: ON, OFF or AUTO (where nvcc is found)")
set_property(CACHE FULGUR_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT FULGUR_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FULGUR_CUDA is '${FULGUR_CUDA}'; it may be AUTO, ON or OFF.")
endif()

set(FULGUR_HAS_CUDA OFF)
# Sanitizers know nothing of kernels: those builds need no second copy of them.
if(FULGUR_CUDA STREQUAL "ON" OR (FULGUR_CUDA STREQUAL "AUTO" AND NOT FULGUR_SANITIZE))
  find_program(FULGUR_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(FULGUR_NVCC)
  set(cuda_least 13.0)  # whose cuBLASLt is opened
  set(cuda_found "no nvcc on the PATH or in /usr/local/cuda/bin")
  if(FULGUR_NVCC)
    execute_process(COMMAND ${FULGUR_NVCC} --version OUTPUT_VARIABLE cuda_told ERROR_QUIET)
    if(cuda_told MATCHES "release ([0-9.]+)")
      set(cuda_found "${FULGUR_NVCC} of release ${CMAKE_MATCH_1}")
      if(CMAKE_MATCH_1 VERSION_GREATER_EQUAL cuda_least)
        set(FULGUR_HAS_CUDA ON)
      else()
        message(STATUS "No CUDA back end: ${cuda_found}, older than ${cuda_least}")
      endif()
    else()
      set(cuda_found "${FULGUR_NVCC}, which tells no release")
    endif()
  endif()
  if(FULGUR_CUDA STREQUAL "ON" AND NOT FULGUR_HAS_CUDA)
    message(FATAL_ERROR "FULGUR_CUDA is ON, but no CUDA toolkit that compiles it is here.\n"
      "  expected  nvcc of release ${cuda_least} or later\n"
      "  found     ${cuda_found}\n"
      "  to do     install NVIDIA's CUDA toolkit, name its nvcc with -DFULGUR_NVCC=, or configure with "
      "-DFULGUR_CUDA=OFF")
  endif()
endif()

if(FULGUR_HAS_CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${FULGUR_NVCC})
  endif()
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a-real)  # Hopper with its own instructions; no PTX for others
  endif()
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 doesn't know CUDA 13's
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  find_package(CUDAToolkit ${cuda_least} REQUIRED)
endif()

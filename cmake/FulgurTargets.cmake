# Every folder of src/ is a target of its own. Its include root in the build tree holds one link, to that folder
# alone, so `#include "checkpoint/plan.h"` compiles only where fulgur_checkpoint is linked: a wrong arrow between
# layers is a compile error (docs/design.md, section 2).

add_library(fulgur_options INTERFACE)
set(warnings -Wall -Wextra -Werror -Wno-missing-field-initializers)
list(JOIN warnings "," host_warnings)
target_compile_options(fulgur_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:${warnings} -ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${host_warnings} -Werror=all-warnings>)
if(FULGUR_SANITIZE)
  # Null pointers trap without a check of their own, which costs a quarter of the compile time.
  target_compile_options(fulgur_options INTERFACE -fsanitize=${FULGUR_SANITIZE} -fno-sanitize=null -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  target_link_options(fulgur_options INTERFACE -fsanitize=${FULGUR_SANITIZE})
endif()

# Release is -O2 (CMakePresets.json): nothing is measurably faster with -O3 but what computes, and compiling takes
# longer than running. For the same reason tests are -O1 and sanitizer builds don't optimize. What computes is
# exempt from all that: fulgur_computes(<targets...>).
function(fulgur_computes)
  foreach(target ${ARGN})
    if(FULGUR_SANITIZE)
      target_compile_options(${target} PRIVATE -O1)
    else()
      target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O3>)
    endif()
  endforeach()
endfunction()

# What most files of a target read, precompiled: where those are short and the headers aren't, half of the compile time.
# GCC's option is what ccache needs to follow it.
function(fulgur_precompiles target)
  target_precompile_headers(${target} PRIVATE ${ARGN})
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endfunction()

# fulgur_folder(<path below src> SOURCES <files...> LINKS <targets the folder may see...> [PRIVATE_LINKS <...>])
# makes the target fulgur_<path with _ for />.
function(fulgur_folder path)
  cmake_parse_arguments(arg "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  string(REPLACE "/" "_" name ${path})
  set(root ${CMAKE_BINARY_DIR}/roots/${name})
  get_filename_component(parent ${root}/${path} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/src/${path} ${root}/${path} SYMBOLIC)
  add_library(fulgur_${name} STATIC ${arg_SOURCES})
  target_include_directories(fulgur_${name} PUBLIC $<BUILD_INTERFACE:${root}>)
  target_link_libraries(fulgur_${name} PUBLIC ${arg_LINKS} PRIVATE $<BUILD_INTERFACE:fulgur_options> ${arg_PRIVATE_LINKS})
  if(NOT path STREQUAL cli)
    install(TARGETS fulgur_${name} EXPORT FulgurTargets COMPONENT Development)
  endif()
endfunction()

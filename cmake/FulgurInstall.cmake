# What `cmake --install` puts there for programs that use the engine: the public headers, the libraries and
# find_package(Fulgur). Included where all targets are known.

include(CMakePackageConfigHelpers)

add_library(fulgur_library INTERFACE)
set_target_properties(fulgur_library PROPERTIES EXPORT_NAME fulgur)
target_include_directories(fulgur_library INTERFACE $<INSTALL_INTERFACE:include>)
target_compile_features(fulgur_library INTERFACE cxx_std_20)
target_link_libraries(fulgur_library INTERFACE fulgur_runtime)
install(TARGETS fulgur_library EXPORT FulgurTargets COMPONENT Development)

set(package lib/cmake/Fulgur)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/fulgur DESTINATION include COMPONENT Development)
install(EXPORT FulgurTargets NAMESPACE Fulgur:: DESTINATION ${package} COMPONENT Development)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/FulgurConfig.cmake.in ${CMAKE_BINARY_DIR}/FulgurConfig.cmake
  INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/FulgurConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/FulgurConfig.cmake ${CMAKE_BINARY_DIR}/FulgurConfigVersion.cmake DESTINATION ${package}
  COMPONENT Development)

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS mamba EXPORT mambaTargets FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILE_SET cuda_headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILE_SET text_headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILE_SET mpi_headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT mambaTargets NAMESPACE mamba:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mamba)
configure_package_config_file(cmake/mambaConfig.cmake.in mambaConfig.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mamba)
write_basic_package_version_file(mambaConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mambaConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/mambaConfigVersion.cmake cmake/mambaCuda.cmake cmake/mambaMpi.cmake
        cmake/mambaText.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mamba)

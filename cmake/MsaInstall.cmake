# `cpack` (make dist): a tar that runs where there is a glibc as new as the build machine's and nothing
# else: bin/msa, every library it needs in lib/ beside it, the project's adapter, licences.
#
# RPATH and not RUNPATH: the former holds for what the libraries need themselves too.
set_target_properties(msa PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
target_link_options(msa PRIVATE LINKER:--disable-new-dtags)

install(TARGETS msa RUNTIME_DEPENDENCY_SET msa_libraries RUNTIME DESTINATION bin COMPONENT msa)
install(RUNTIME_DEPENDENCY_SET msa_libraries
  # What glibc is made of, and the driver's own, come from the machine it runs on.
  PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv)\\.so" "^libcuda\\.so"
  LIBRARY DESTINATION lib COMPONENT msa)
# Opened at run time, by who names several GPUs; linked by nothing.
if(MSA_CUDA)
  find_library(MSA_NCCL_LIBRARY NAMES libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} /usr/local/cuda/lib)
  if(MSA_NCCL_LIBRARY)
    install(FILES ${MSA_NCCL_LIBRARY} DESTINATION lib COMPONENT msa)
  endif()
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/models/smollm2-135m-instruct-msa DESTINATION models COMPONENT msa)
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/CHANGELOG.md DESTINATION . COMPONENT msa)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs DESTINATION . COMPONENT msa)
install(CODE "execute_process(
    COMMAND ${CMAKE_SOURCE_DIR}/scripts/collect_licences.sh \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}\"
    COMMAND_ERROR_IS_FATAL ANY)" COMPONENT msa)

set(CPACK_GENERATOR TGZ)  # every machine has gzip, not every one zstd
set(CPACK_PACKAGE_NAME msa)
set(CPACK_PACKAGE_FILE_NAME msa-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_COMPONENTS_ALL msa)
set(CPACK_ARCHIVE_COMPONENT_INSTALL OFF)
set(CPACK_STRIP_FILES ON)
include(CPack)

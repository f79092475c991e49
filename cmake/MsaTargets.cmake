# msa_library(NAME SRCS a.cc … DEPS target …): one static library for a folder.
# msa_test(NAME LABEL unit|contract|golden|integration|fault|fuzz SRCS … DEPS …): one gtest program, one ctest entry a test case.
include(CheckCXXCompilerFlag)
find_program(MSA_MOLD mold)
if(MSA_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
find_program(MSA_CCACHE ccache)
if(MSA_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${MSA_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${MSA_CCACHE})
endif()

# Everything for clang's libFuzzer, with the sanitizers that make it see more (tests/fuzz/README.md).
option(MSA_LIBFUZZER "Build tests/fuzz with libFuzzer; the compiler must be clang" OFF)
if(MSA_LIBFUZZER)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

add_library(msa_options INTERFACE)
target_compile_options(msa_options INTERFACE -Wall -Wextra -Werror -Wno-unused-parameter)
target_include_directories(msa_options INTERFACE ${CMAKE_SOURCE_DIR})

function(msa_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  target_link_libraries(${name} PUBLIC msa_options ${ARG_DEPS})
endfunction()

function(msa_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE msa_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE MSA_SOURCE_DIR="${CMAKE_SOURCE_DIR}" MSA_BINARY_DIR="${CMAKE_BINARY_DIR}")
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${ARG_LABEL} TIMEOUT 300)
endfunction()

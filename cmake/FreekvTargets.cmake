# What computes little: sanitizers' builds leave it as it is written, which compiles in half the time.
function(freekv_cold target)
  if(FREEKV_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  endif()
endfunction()

# freekv_library(<folder> DEPS ... [TEST_SHARDS n] [COLD]): one static library per folder of src/,
# from every *.cc in it but tests, and one test program from its *_test.cc files, with n ctest
# entries. Dependencies are one-way, and tools/check_layers.py holds the includes to the same order.
function(freekv_library folder)
  cmake_parse_arguments(ARG "COLD" "TEST_SHARDS" "DEPS;SOURCES" ${ARGN})
  string(REPLACE "/" "_" name ${folder})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(APPEND sources ${ARG_SOURCES})
  if(sources)
    add_library(freekv_${name} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(freekv_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(freekv_${name} ${scope} ${PROJECT_SOURCE_DIR}/src
                                                     ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(freekv_${name} ${scope} ${ARG_DEPS})
  if(FREEKV_TESTS AND tests)
    freekv_test(${name}_tests SOURCES ${tests} DEPS freekv_${name} SHARDS ${ARG_TEST_SHARDS})
  endif()
  if(ARG_COLD)
    freekv_cold(freekv_${name})
    if(TARGET ${name}_tests)
      freekv_cold(${name}_tests)
    endif()
  endif()
endfunction()

# freekv_test(<name> SOURCES ... DEPS ... [SHARDS n]): a GoogleTest program; one ctest entry, or n
# that share its tests, so that a long one keeps several cores busy.
add_custom_target(test_programs)  # all of them, without the program and what scripts drive
function(freekv_test name)
  cmake_parse_arguments(ARG "" "SHARDS" "DEPS;SOURCES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  target_compile_definitions(${name} PRIVATE FREEKV_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_dependencies(test_programs ${name})
  if(NOT ARG_SHARDS)
    add_test(NAME ${name} COMMAND ${name})
    return()
  endif()
  math(EXPR last "${ARG_SHARDS} - 1")
  foreach(shard RANGE ${last})
    add_test(NAME ${name}_${shard} COMMAND ${name})
    set_tests_properties(${name}_${shard} PROPERTIES ENVIRONMENT
                         "GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}" COST 100)
  endforeach()
endfunction()

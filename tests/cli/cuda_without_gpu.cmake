# Hides any GPU and asks for one.
set(ENV{CUDA_VISIBLE_DEVICES} "")
execute_process(COMMAND ${PROGRAM} run -m ${MODEL} -p hi --backend cuda
                RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE error)
set(reasons "libfreekv_cuda.so is not found in /.*LD_LIBRARY_PATH"
            "the NVIDIA driver is missing or older than CUDA [0-9.]+ needs"
            "the NVIDIA driver finds no GPU")
list(JOIN reasons "|" reasons)
if(NOT code EQUAL 2 OR NOT output STREQUAL "" OR NOT error MATCHES "^freekv: (${reasons})[^\n]*\n$")
  message(FATAL_ERROR "exit code ${code}, output \"${output}\", error \"${error}\"")
endif()

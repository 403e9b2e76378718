# What the CUDA backend takes from elsewhere: FlashInfer's header-only attention, and cuBLASLt where
# the toolkit lacks it. Both come with tools/setup.sh cuda, into .venv.
file(GLOB freekv_site_packages ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages)

set(flashinfer_folders)
set(cublas_folders)
foreach(folder ${freekv_site_packages})
  list(APPEND flashinfer_folders ${folder}/flashinfer/data/include)
  list(APPEND cublas_folders ${folder}/nvidia/cu13)
endforeach()

find_path(FREEKV_FLASHINFER_INCLUDE flashinfer/attention/prefill.cuh PATHS ${flashinfer_folders}
          NO_DEFAULT_PATH)
if(NOT FREEKV_FLASHINFER_INCLUDE)
  message(FATAL_ERROR "FlashInfer's headers are not in .venv. Run tools/setup.sh cuda, or set "
                      "FREEKV_FLASHINFER_INCLUDE to the folder that holds flashinfer/.")
endif()
add_library(freekv_flashinfer INTERFACE)
# With the version of CCCL that it is written for, which may be newer than the toolkit's.
target_include_directories(freekv_flashinfer SYSTEM INTERFACE
                           ${FREEKV_FLASHINFER_INCLUDE}
                           ${FREEKV_FLASHINFER_INCLUDE}/../cccl/libcudacxx/include)

# With CUTLASS, for the kernels that are written in it.
add_library(freekv_flashinfer_cutlass INTERFACE)
target_link_libraries(freekv_flashinfer_cutlass INTERFACE freekv_flashinfer)
target_include_directories(freekv_flashinfer_cutlass SYSTEM INTERFACE
                           ${FREEKV_FLASHINFER_INCLUDE}/../cutlass/include)

add_library(freekv_cublaslt INTERFACE)
if(TARGET CUDA::cublasLt)
  target_link_libraries(freekv_cublaslt INTERFACE CUDA::cublasLt)
else()
  find_path(FREEKV_CUBLAS_INCLUDE cublasLt.h PATHS ${cublas_folders} PATH_SUFFIXES include)
  find_library(FREEKV_CUBLASLT NAMES cublasLt libcublasLt.so.13 PATHS ${cublas_folders}
               PATH_SUFFIXES lib)
  if(NOT FREEKV_CUBLAS_INCLUDE OR NOT FREEKV_CUBLASLT)
    message(FATAL_ERROR "Neither the CUDA toolkit nor .venv has cuBLASLt. Run tools/setup.sh cuda.")
  endif()
  target_include_directories(freekv_cublaslt SYSTEM INTERFACE ${FREEKV_CUBLAS_INCLUDE})
  target_link_libraries(freekv_cublaslt INTERFACE ${FREEKV_CUBLASLT})
endif()

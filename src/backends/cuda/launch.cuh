// Programmatic dependent launch, where the GPU has it (sm_90 and newer): a kernel's blocks may
// start while the kernel before it still runs, and what they can do without its results, such as
// reading weights, is then behind them when it ends. A step of small kernels is bound by such gaps.
//
// A kernel that is launched so must call wait_for_previous() in all of its threads before it reads
// or writes anything that an earlier kernel of its stream may still be touching, and before it
// ends: the kernel after it relies on all earlier ones having ended. What only earlier steps wrote
// is safe, since the first kernel of a step is not launched so.
#pragma once

#include <cuda_runtime.h>

#include "device/cuda/runtime.hpp"

namespace freekv::cuda {

#ifdef __CUDACC__
/// Returns when the kernel before this one has ended and its writes are visible.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel's blocks start as soon as all blocks of this one have called it and there
/// is room for them.
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

/// Launches `kernel`, early if possible, behind what is the last in `stream`, in clusters of
/// `cluster` blocks (1: none). As much of an SM's memory as can be is shared memory, in all kernels
/// alike: between those that want other shares an SM has to run empty.
template <typename... Params, typename... Args>
void launch_early_in_clusters(void (*kernel)(Params...), dim3 grid, dim3 block, unsigned cluster,
                              size_t shared, cudaStream_t stream, const Args&... args) {
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "cudaDeviceGetAttribute");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute(carveout)");
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  if (major >= 9) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {cluster, 1, 1};
  }
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  check_cuda(cudaLaunchKernelEx(&config, kernel, Params(args)...), "cudaLaunchKernelEx");
}

template <typename... Params, typename... Args>
void launch_early(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared,
                  cudaStream_t stream, const Args&... args) {
  launch_early_in_clusters(kernel, grid, block, 1, shared, stream, args...);
}

}  // namespace freekv::cuda

// A GPU that fails in the middle of work.
#pragma once

#include <cuda_runtime_api.h>

namespace freekv::cuda {

/// Queues a kernel that traps: from then on every call of this process to the device fails.
void lose_device(cudaStream_t stream);

}  // namespace freekv::cuda

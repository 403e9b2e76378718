// For tests of what happens when a GPU fails.
#pragma once

namespace freekv::cuda {

/// Queues a kernel that traps. No call to CUDA of this process works after it has run.
void lose_device();

}  // namespace freekv::cuda

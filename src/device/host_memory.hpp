// How much memory the machine, or the container around this process, still has to give.
#pragma once

#include <cstddef>

namespace freekv {

/// Bytes that can be taken without swapping: the system's estimate, or what a container's limit
/// leaves where that is less. SIZE_MAX when neither can be read.
size_t available_host_memory();

}  // namespace freekv

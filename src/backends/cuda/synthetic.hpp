// For benchmarks: values for models and caches that need not mean anything, and the time that
// reading memory once takes at best.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backends/cuda/layout.hpp"

namespace freekv::cuda {

/// values[i] = scale * u_i, u_i in [-1, 1) from a hash of seed and i. Device memory, or pinned host
/// memory by its device address.
void fill_random(KvType type, void* values, int64_t count, uint64_t seed, float scale,
                 cudaStream_t stream);
/// The same values for `pages` pages of all heads, wherever they stand: in the slow tier's layout
/// (HND), or, if `token_major`, in the fast tier's (NHD).
void fill_random_pages(const KvGeometry& kv, bool token_major, void* values, int64_t pages,
                       uint64_t seed, float scale, cudaStream_t stream);
void fill_constant(float* values, int64_t count, float value, cudaStream_t stream);

/// Reads `bytes` (a multiple of 16) once, as fast as the device can; `sink` takes one word.
void read_once(const void* data, size_t bytes, uint32_t* sink, cudaStream_t stream);

}  // namespace freekv::cuda

// Model files into GGUF files of another type.
#pragma once

#include <functional>
#include <string>

#include "core/dtype.hpp"
#include "core/thread_pool.hpp"

namespace freekv {

/// Writes the model at `in`, a checkpoint folder or a GGUF file, to the GGUF file `out`. Matrices
/// become `type`, F32, F16, BF16 or a type that quantize_row() writes; where their rows are not
/// whole blocks of it, F16. Vectors are F32, or stay as they are in a GGUF file. Keys are those of
/// llama.cpp's converter, and its order of the rows of q and k.
///
/// Tensors are read, converted and written some megabytes at a time. `out` appears when it is
/// whole: a failure leaves what was there before. `progress(done, total)` gets bytes written, from
/// this thread; returning false throws Error(kCancelled).
void convert_model(ThreadPool& pool, const std::string& in, const std::string& out, DType type,
                   const std::function<bool(size_t done, size_t total)>& progress);

}  // namespace freekv

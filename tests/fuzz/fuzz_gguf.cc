// Any bytes as a GGUF file: refused with an Error, or every value and tensor is readable.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "io/gguf.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace freekv;
  Result<Gguf> parsed = Gguf::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!parsed.ok()) {
    // The one line: without control characters, whatever names the file has.
    for (const char c : parsed.error().message()) {
      if (c < 0x20 || c > 0x7e) std::abort();
    }
    return 0;
  }
  const Gguf& gguf = parsed.value();
  size_t sum = 0;
  for (const GgufEntry& entry : gguf.metadata()) {
    sum += format_gguf_value(entry.value, SIZE_MAX).size();
    if (gguf.find(entry.key) != &entry.value) std::abort();
    try {
      sum += gguf.find_u64(entry.key).value_or(0) + gguf.find_ints(entry.key)->size();
    } catch (const Error&) {
      // Of another type.
    }
  }
  for (const GgufTensorInfo& info : gguf.tensors()) {
    if (gguf.find_tensor_info(info.name) != &info) std::abort();
    if (!info.type->dtype) continue;
    const GgufTensor tensor = gguf.tensor(info.name);
    const size_t row = row_bytes(tensor.dtype, tensor.cols());
    if (row * static_cast<size_t>(tensor.rows()) != tensor.bytes) std::abort();
    for (size_t i = 0; i < tensor.bytes; ++i) sum += std::to_integer<size_t>(tensor.data[i]);
  }
  // Keeps the reads.
  volatile size_t kept = sum;
  static_cast<void>(kept);
  return 0;
}

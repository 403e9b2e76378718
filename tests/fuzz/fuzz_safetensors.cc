// Any bytes as a safetensors file: refused with an Error, or every tensor is readable.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "io/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace freekv;
  Result<Safetensors> parsed = Safetensors::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!parsed.ok()) {
    // The one line: without control characters, whatever names the file has.
    for (const char c : parsed.error().message()) {
      if (c < 0x20 || c > 0x7e) std::abort();
    }
    return 0;
  }
  const Safetensors& file = parsed.value();
  size_t sum = 0, bytes = 0;
  for (const SafetensorsInfo& info : file.tensors()) {
    if (file.find(info.name) != &info) std::abort();
    uint64_t bits = info.type->bits;
    for (const int64_t extent : info.extents()) bits *= static_cast<uint64_t>(extent);
    if (bits != info.bytes * 8) std::abort();
    const std::byte* at = file.data(info);
    for (size_t i = 0; i < info.bytes; ++i) sum += std::to_integer<size_t>(at[i]);
    bytes += info.bytes;
  }
  if (bytes > size) std::abort();
  // Keeps the reads.
  volatile size_t kept = sum;
  static_cast<void>(kept);
  return 0;
}

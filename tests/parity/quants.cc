// quants dequantize TYPE < blocks > floats
// quants quantize TYPE < floats > blocks
//
// Conversions of one row in a GGUF type, for test_quants.py, which holds them against the gguf
// package.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "core/quantize.hpp"

namespace {

using namespace freekv;

int convert(const std::string& what, DType dtype) {
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  const DTypeInfo& info = dtype_info(dtype);
  std::string output;
  if (what == "dequantize") {
    std::vector<float> values(input.size() / static_cast<size_t>(info.block_bytes) *
                              static_cast<size_t>(info.block_values));
    load_row(dtype, reinterpret_cast<const std::byte*>(input.data()), values);
    output.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  } else {
    const std::span values(reinterpret_cast<const float*>(input.data()),
                           input.size() / sizeof(float));
    output.resize(row_bytes(dtype, static_cast<int64_t>(values.size())));
    quantize_row(dtype, values, reinterpret_cast<std::byte*>(output.data()));
  }
  return std::fwrite(output.data(), 1, output.size(), stdout) == output.size() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc == 3 ? argv[1] : "";
  for (int i = 0; i < kDTypes && (what == "dequantize" || what == "quantize"); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype_name(dtype) == argv[2]) return convert(what, dtype);
  }
  std::cerr << "usage: quants dequantize|quantize TYPE\n";
  return 2;
}

#include "io/safetensors_header.hpp"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "core/check.hpp"
#include "io/byte_reader.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

using nlohmann::json;

// The specification's own limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kUnset = std::numeric_limits<uint64_t>::max();

constexpr auto kTypes = std::to_array<SafetensorsType>({
    {"F32", 32, DType::kF32},
    {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},
    {"F64", 64, {}},
    {"BOOL", 8, {}},
    {"U8", 8, {}},
    {"I8", 8, {}},
    {"U16", 16, {}},
    {"I16", 16, {}},
    {"U32", 32, {}},
    {"I32", 32, {}},
    {"U64", 64, {}},
    {"I64", 64, {}},
    {"C64", 64, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
});

/// Walks the header once without building a document, so that memory is that of the records.
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  explicit HeaderHandler(const std::string& source) : source_(source) {}

  std::vector<SafetensorsInfo> take() { return std::move(tensors_); }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kFile;
    } else if (place_ == Place::kFile && key_ == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kFile) {
      place_ = Place::kTensor;
      tensor_ = {};
      tensor_.name = std::move(key_);
      shape_seen_ = false;
      begin_ = end_ = kUnset;
    } else {
      refuse_value("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) finish_tensor();
    place_ = place_ == Place::kFile ? Place::kEnd : Place::kFile;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor) refuse_value("an array");
    if (key_ == "shape") {
      tensor_.dimensions = 0;
      shape_seen_ = true;
      place_ = Place::kShape;
    } else if (key_ == "data_offsets") {
      offsets_ = 0;
      place_ = Place::kOffsets;
    } else {
      refuse_value("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_ != 2) {
      refuse("data_offsets of {} has {} numbers, must have 2", freekv::quoted(tensor_.name),
             offsets_);
    }
    place_ = Place::kTensor;
    return true;
  }

  bool key(json::string_t& key) override {
    key_ = std::move(key);
    return true;
  }

  bool string(json::string_t& text) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || key_ != "dtype") refuse_value(freekv::quoted(text));
    const auto* type = std::find_if(kTypes.begin(), kTypes.end(),
                                    [&](const SafetensorsType& t) { return t.name == text; });
    if (type == kTypes.end()) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("dtype of tensor {} is {}, which is no type of the format",
                              freekv::quoted(tensor_.name), freekv::quoted(text)),
                  source_);
    }
    tensor_.type = type;
    return true;
  }

  bool number_unsigned(json::number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      add_extent(value);
    } else if (place_ == Place::kOffsets) {
      if (offsets_ < 2) (offsets_ == 0 ? begin_ : end_) = value;
      ++offsets_;
    } else {
      refuse_value(fmt::format("{}", value));
    }
    return true;
  }

  bool null() override { refuse_value("null"); }
  bool boolean(bool value) override { refuse_value(value ? "true" : "false"); }
  bool number_integer(json::number_integer_t value) override {
    refuse_value(fmt::format("{}", value));
  }
  bool number_float(json::number_float_t, const json::string_t& text) override {
    refuse_value(freekv::quoted(text));
  }
  bool binary(json::binary_t&) override { refuse_value("binary"); }
  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    refuse("header is no JSON at byte {}, in or after field {}", position, freekv::quoted(key_));
  }

 private:
  enum class Place { kStart, kFile, kMetadata, kTensor, kShape, kOffsets, kEnd };

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorCode::kParse, fmt::format(format, std::forward<Args>(args)...), source_);
  }

  [[noreturn]] void refuse_value(std::string_view value) const {
    switch (place_) {
      case Place::kTensor:
        refuse("{} of tensor {} is {}, expected dtype (a string), shape and data_offsets (arrays)",
               freekv::quoted(key_), freekv::quoted(tensor_.name), value);
      case Place::kShape:
      case Place::kOffsets:
        refuse("{} of tensor {} holds {}, must be integers of 0 or more", key_,
               freekv::quoted(tensor_.name), value);
      case Place::kMetadata:
        refuse("__metadata__ {} is {}, must be a string", freekv::quoted(key_), value);
      default:
        refuse("{} in the header is {}, must be an object", freekv::quoted(key_), value);
    }
  }

  void add_extent(uint64_t extent) {
    if (tensor_.dimensions == SafetensorsInfo::kMaxDimensions) {
      refuse("shape of tensor {} has more than {} dimensions", freekv::quoted(tensor_.name),
             SafetensorsInfo::kMaxDimensions);
    }
    if (extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      refuse("shape of tensor {} holds {}, more than any file", freekv::quoted(tensor_.name),
             extent);
    }
    tensor_.shape[tensor_.dimensions++] = static_cast<int64_t>(extent);
  }

  /// Bytes of the elements; kUnset when they overflow or end inside a byte.
  uint64_t shape_bytes() const {
    uint64_t bits = tensor_.type->bits;
    for (const int64_t extent : tensor_.extents()) {
      if (__builtin_mul_overflow(bits, static_cast<uint64_t>(extent), &bits)) return kUnset;
    }
    return bits % 8 == 0 ? bits / 8 : kUnset;
  }

  void finish_tensor() {
    const std::string name = freekv::quoted(tensor_.name);
    if (tensor_.type == nullptr) refuse("tensor {} has no dtype", name);
    if (!shape_seen_) refuse("tensor {} has no shape", name);
    if (end_ == kUnset) refuse("tensor {} has no data_offsets", name);
    if (begin_ > end_ || end_ - begin_ != shape_bytes()) {
      const uint64_t bytes = shape_bytes();
      refuse("data_offsets of tensor {} are {} to {}, its {} shape takes {} bytes", name, begin_,
             end_, tensor_.type->name, bytes == kUnset ? "too many" : fmt::format("{}", bytes));
    }
    tensor_.offset = begin_;
    tensor_.bytes = end_ - begin_;
    tensors_.push_back(std::move(tensor_));
  }

  const std::string& source_;
  std::vector<SafetensorsInfo> tensors_;
  Place place_ = Place::kStart;
  std::string key_;
  SafetensorsInfo tensor_;  // under way
  bool shape_seen_ = false;
  uint64_t begin_ = kUnset;
  uint64_t end_ = kUnset;
  int offsets_ = 0;
};

template <typename... Args>
[[noreturn]] void refuse(const std::string& source, fmt::format_string<Args...> format,
                         Args&&... args) {
  throw Error(ErrorCode::kParse, fmt::format(format, std::forward<Args>(args)...), source);
}

/// The data must follow without gaps or overlaps and fill the file, as the format asks.
void check_layout(const std::vector<SafetensorsInfo>& tensors, uint64_t data_bytes,
                  const std::string& source) {
  std::vector<const SafetensorsInfo*> order;
  order.reserve(tensors.size());
  for (const SafetensorsInfo& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const SafetensorsInfo* a, const SafetensorsInfo* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  uint64_t next = 0;
  for (const SafetensorsInfo* tensor : order) {
    const uint64_t end = tensor->offset + tensor->bytes;  // was an offset in the file: no overflow
    if (end > data_bytes) {
      refuse(source, "data_offsets of tensor {} end at {}, the file has {} bytes of data",
             freekv::quoted(tensor->name), end, data_bytes);
    }
    if (tensor->offset != next) {
      refuse(source, "data_offsets of tensor {} begin at {}, the tensor before it ends at {}",
             freekv::quoted(tensor->name), tensor->offset, next);
    }
    next = end;
  }
  if (next != data_bytes) {
    refuse(source, "the tensors take {} bytes, the file has {} bytes of data", next, data_bytes);
  }
}

}  // namespace

std::vector<SafetensorsInfo> parse_safetensors(std::span<const std::byte> bytes,
                                               const std::string& source) {
  ByteReader in(bytes, source);
  const auto header_bytes = in.read<uint64_t>({"header size"});
  if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, in.remaining())) {
    refuse(source, "header size is {}, must be at most {} and the {} bytes left in the file",
           header_bytes, kMaxHeaderBytes, in.remaining());
  }
  const auto header = in.take(header_bytes, {"header"});
  const char* text = reinterpret_cast<const char*>(header.data());
  HeaderHandler handler(source);
  // Nesting is bounded by what the handler accepts. It throws, so the result says nothing.
  json::sax_parse(text, text + header.size(), &handler);
  std::vector<SafetensorsInfo> tensors = handler.take();
  std::sort(tensors.begin(), tensors.end(),
            [](const SafetensorsInfo& a, const SafetensorsInfo& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].name == tensors[i - 1].name) {
      refuse(source, "tensor {} occurs twice, at data offsets {} and {}",
             freekv::quoted(tensors[i].name), tensors[i - 1].offset, tensors[i].offset);
    }
  }
  check_layout(tensors, in.remaining(), source);
  for (SafetensorsInfo& tensor : tensors) tensor.offset += in.position();
  return tensors;
}

}  // namespace freekv

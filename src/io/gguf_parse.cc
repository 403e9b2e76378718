#include "io/gguf_parse.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "io/byte_reader.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

constexpr uint32_t kMaxDimensions = 4;
constexpr uint32_t kMinAlignment = 8;
constexpr uint32_t kMaxAlignment = 1u << 20;
// The fewest bytes a record takes: length, one character, type, one-byte value; and length, one
// character, dimension count, one dimension, type, offset.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

template <typename... Args>
[[noreturn]] void refuse(const ByteReader& in, ErrorCode code, fmt::format_string<Args...> format,
                         Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...), std::string(in.source()));
}

// a * b and a + b where they fit in 64 bits.
std::optional<uint64_t> checked_multiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

void read_magic(ByteReader& in) {
  const auto bytes = in.take(4, {"magic"});
  const std::string_view magic(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (magic == "GGUF") return;
  if (magic == "FUGG") {
    refuse(in, ErrorCode::kUnsupported, "is a big-endian GGUF file, only little-endian is read");
  }
  refuse(in, ErrorCode::kParse, "is no GGUF file: magic is {}, must be 'GGUF'", quoted(magic));
}

uint32_t read_version(ByteReader& in) {
  const auto version = in.read<uint32_t>({"version"});
  if (version == 2 || version == 3) return version;
  // Big-endian writers keep the magic and swap every number after it.
  if (version != 0 && (version & 0xffffu) == 0) {
    refuse(in, ErrorCode::kUnsupported, "is a big-endian GGUF file, only little-endian is read");
  }
  refuse(in, ErrorCode::kUnsupported, "GGUF version is {}, supported are 2 and 3", version);
}

uint64_t read_count(ByteReader& in, std::string_view what, uint64_t min_bytes) {
  const auto count = in.read<uint64_t>({what});
  if (count > in.remaining() / min_bytes) {
    refuse(in, ErrorCode::kParse, "{} is {}, but the {} bytes left hold at most {}", what, count,
           in.remaining(), in.remaining() / min_bytes);
  }
  return count;
}

GgufType read_value_type(ByteReader& in, const Field& field) {
  const auto type = in.read<uint32_t>(field);
  if (type >= kGgufTypeCount) {
    refuse(in, ErrorCode::kParse, "{} is {}, must be below {}", field.text(), type, kGgufTypeCount);
  }
  return static_cast<GgufType>(type);
}

void check_bools(const ByteReader& in, std::span<const std::byte> values, const Field& field) {
  for (const std::byte value : values) {
    if (std::to_integer<int>(value) > 1) {
      refuse(in, ErrorCode::kParse, "{} is {}, a bool must be 0 or 1", field.text(),
             std::to_integer<int>(value));
    }
  }
}

// Strings have no fixed size, so an array of them is walked to find where it ends.
std::span<const std::byte> take_strings(ByteReader& in, uint64_t count, const Field& field) {
  ByteReader start = in;
  if (count > in.remaining() / sizeof(uint64_t)) {
    refuse(in, ErrorCode::kParse, "{} is an array of {} strings, the {} bytes left hold at most {}",
           field.text(), count, in.remaining(), in.remaining() / sizeof(uint64_t));
  }
  for (uint64_t i = 0; i < count; ++i) in.read_string(field);
  return start.take(in.position() - start.position(), field);
}

GgufValue read_array(ByteReader& in, Field field) {
  GgufValue value;
  value.type = GgufType::kArray;
  field.what = "array element type";
  value.element = read_value_type(in, field);
  if (value.element == GgufType::kArray) {
    refuse(in, ErrorCode::kUnsupported, "{} is array, nested arrays are not supported",
           field.text());
  }
  field.what = "array length";
  value.count = in.read<uint64_t>(field);
  field.what = "value";
  if (value.element == GgufType::kString) {
    value.payload = take_strings(in, value.count, field);
    return value;
  }
  const auto bytes = checked_multiply(value.count, gguf_type_bytes(value.element));
  if (!bytes) {
    refuse(in, ErrorCode::kParse, "{} is an array of {} x {}, more than fits in {} bytes left",
           field.text(), value.count, gguf_type_name(value.element), in.remaining());
  }
  value.payload = in.take(*bytes, field);
  if (value.element == GgufType::kBool) check_bools(in, value.payload, field);
  return value;
}

GgufEntry read_entry(ByteReader& in, uint64_t index) {
  GgufEntry entry;
  Field field{"key", "metadata entry", index};
  entry.key = in.read_string(field);
  if (entry.key.empty()) refuse(in, ErrorCode::kParse, "{} is empty", field.text());
  field = {"value type", "metadata entry", index, entry.key};
  const GgufType type = read_value_type(in, field);
  field.what = "value";
  if (type == GgufType::kArray) {
    entry.value = read_array(in, field);
    return entry;
  }
  entry.value.type = entry.value.element = type;
  if (type == GgufType::kString) {
    const std::string_view text = in.read_string(field);
    entry.value.payload = std::as_bytes(std::span(text));
  } else {
    entry.value.payload = in.take(gguf_type_bytes(type), field);
    if (type == GgufType::kBool) check_bools(in, entry.value.payload, field);
  }
  return entry;
}

// Positions ordered by name. Sorting keeps the check for duplicates n log n whatever the names; a
// hash table would let a file choose colliding ones.
template <typename Record>
std::vector<size_t> order_by_name(const ByteReader& in, const std::vector<Record>& records,
                                  std::string_view Record::*name, std::string_view kind) {
  std::vector<size_t> order(records.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return records[a].*name < records[b].*name; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (records[order[i]].*name == records[order[i - 1]].*name) {
      refuse(in, ErrorCode::kParse, "{} {} occurs twice, as number {} and {}", kind,
             quoted(records[order[i]].*name), std::min(order[i - 1], order[i]),
             std::max(order[i - 1], order[i]));
    }
  }
  return order;
}

uint32_t find_alignment(const ByteReader& in, const GgufContents& contents) {
  for (const GgufEntry& entry : contents.metadata) {
    if (entry.key != "general.alignment") continue;
    if (entry.value.type != GgufType::kU32) {
      refuse(in, ErrorCode::kParse, "metadata 'general.alignment' is {}, must be u32",
             gguf_type_name(entry.value.type));
    }
    uint32_t alignment = 0;
    std::memcpy(&alignment, entry.value.payload.data(), sizeof(alignment));
    if (!std::has_single_bit(alignment) || alignment < kMinAlignment || alignment > kMaxAlignment) {
      refuse(in, ErrorCode::kParse,
             "metadata 'general.alignment' is {}, must be a power of two from {} to {}", alignment,
             kMinAlignment, kMaxAlignment);
    }
    return alignment;
  }
  return 32;  // the format's default
}

void read_shape(ByteReader& in, GgufTensorInfo& tensor, Field field) {
  field.what = "number of dimensions";
  const auto dimensions = in.read<uint32_t>(field);
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    refuse(in, ErrorCode::kParse, "{} is {}, must be 1 to {}", field.text(), dimensions,
           kMaxDimensions);
  }
  tensor.dimensions = static_cast<int>(dimensions);
  uint64_t elements = 1;
  for (uint32_t d = 0; d < dimensions; ++d) {
    field.what = "dimension";
    const auto extent = in.read<uint64_t>(field);
    const auto product = checked_multiply(elements, extent);
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (extent == 0 || !product || *product > kMax) {
      refuse(in, ErrorCode::kParse, "{}: ne[{}] is {}, must be 1 to {}", field.text(), d, extent,
             kMax / elements);
    }
    elements = *product;
    tensor.ne[d] = static_cast<int64_t>(extent);
  }
}

GgufTensorInfo read_tensor(ByteReader& in, uint64_t index) {
  GgufTensorInfo tensor;
  Field field{"name", "tensor", index};
  tensor.name = in.read_string(field);
  if (tensor.name.empty()) refuse(in, ErrorCode::kParse, "{} is empty", field.text());
  field.name = tensor.name;
  read_shape(in, tensor, field);
  field.what = "type";
  const auto type = in.read<uint32_t>(field);
  tensor.type = find_gguf_tensor_type(type);
  if (tensor.type == nullptr) {
    refuse(in, ErrorCode::kUnsupported, "tensor {} has unknown type {}", quoted(tensor.name), type);
  }
  if (tensor.ne[0] % tensor.type->block_values != 0) {
    refuse(in, ErrorCode::kParse, "tensor {} has rows of {} values, {} needs a multiple of {}",
           quoted(tensor.name), tensor.ne[0], tensor.type->name, tensor.type->block_values);
  }
  field.what = "offset";
  tensor.offset = in.read<uint64_t>(field);
  return tensor;
}

// Turns offsets into positions in the file, once it is known where the data starts.
void place_tensor(const ByteReader& in, GgufTensorInfo& tensor, uint64_t data_start,
                  uint64_t file_bytes, uint32_t alignment) {
  if (tensor.offset % alignment != 0) {
    refuse(in, ErrorCode::kParse, "tensor {} has offset {}, must be a multiple of alignment {}",
           quoted(tensor.name), tensor.offset, alignment);
  }
  const auto blocks = static_cast<uint64_t>(tensor.elements()) / tensor.type->block_values;
  const auto bytes = checked_multiply(blocks, tensor.type->block_bytes);
  const uint64_t available = file_bytes - std::min(file_bytes, data_start);
  const auto end = bytes ? checked_add(tensor.offset, *bytes) : std::nullopt;
  if (!end || *end > available) {
    refuse(in, ErrorCode::kParse,
           "tensor {} takes {} blocks of {} bytes at offset {}, the data section has {} bytes",
           quoted(tensor.name), blocks, tensor.type->block_bytes, tensor.offset, available);
  }
  tensor.bytes = *bytes;
  tensor.offset += data_start;
}

}  // namespace

GgufContents parse_gguf(std::span<const std::byte> bytes, std::string_view source) {
  ByteReader in(bytes, source);
  GgufContents contents;
  read_magic(in);
  contents.version = read_version(in);
  const uint64_t tensor_count = read_count(in, "tensor count", kMinTensorBytes);
  const uint64_t entry_count = read_count(in, "metadata count", kMinEntryBytes);
  for (uint64_t i = 0; i < entry_count; ++i) contents.metadata.push_back(read_entry(in, i));
  contents.metadata_by_key = order_by_name(in, contents.metadata, &GgufEntry::key, "metadata key");
  contents.alignment = find_alignment(in, contents);
  for (uint64_t i = 0; i < tensor_count; ++i) contents.tensors.push_back(read_tensor(in, i));
  contents.tensors_by_name =
      order_by_name(in, contents.tensors, &GgufTensorInfo::name, "tensor name");
  // The header ends inside the file, so rounding up cannot overflow.
  const uint64_t alignment = contents.alignment;
  const uint64_t data_start = (in.position() + alignment - 1) / alignment * alignment;
  for (GgufTensorInfo& tensor : contents.tensors) {
    place_tensor(in, tensor, data_start, bytes.size(), contents.alignment);
  }
  return contents;
}

}  // namespace freekv

// Sequences with pools in both tiers, and a model of them on the host, for the tests of recall and
// turn-over. A test runs a kernel on the device's copy, does the same to the model, and compares
// all of the memory there is.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/layout.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda::cases {

using Values = std::vector<uint16_t>;

inline constexpr uint16_t kPoison = 0xffff;  // NaN in both types

/// Any bits: NaN, infinities and subnormals with the rest.
inline void fill_random(Values& values, uint32_t seed) {
  std::mt19937 generator(seed);
  for (uint16_t& value : values) value = static_cast<uint16_t>(generator() >> 16);
}

/// How many of the values differ; names the first.
inline std::string difference(const Values& actual, const Values& expected) {
  if (actual.size() != expected.size()) return "sizes differ";
  size_t count = 0, first = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    if (count++ == 0) first = i;
  }
  if (count == 0) return "";
  return std::to_string(count) + " of " + std::to_string(expected.size()) +
         " values differ, the first at " + std::to_string(first) + ": " +
         std::to_string(actual[first]) + ", not " + std::to_string(expected[first]);
}

struct LayerKind {
  bool budgeted = true;
  bool slow = true;
  bool sketch = false;
  bool token_major = false;
  SketchKind sketch_kind = SketchKind::kMinMax;
};

struct Sizes {
  KvGeometry kv;
  PageMap map;
  std::vector<LayerKind> layers;
  std::vector<int32_t> max_pages;  // of each sequence
  std::vector<int32_t> order;      // Batch::sequence
};

inline std::string name(const KvGeometry& kv) {
  return std::string(kv.type == KvType::kBF16 ? "bf16" : "fp16") +
         " M=" + std::to_string(kv.kv_heads) + " d=" + std::to_string(kv.head_dim) +
         " p=" + std::to_string(kv.page);
}

/// `fast`, `slow` and `sketch` are the model, each one array for all sequences and layers.
class World {
 public:
  explicit World(Sizes sizes) : sizes_(std::move(sizes)) {
    const KvGeometry& kv = sizes_.kv;
    for (const int32_t pages : sizes_.max_pages) {
      for (const LayerKind& kind : sizes_.layers) {
        const int32_t slots = kind.budgeted ? sizes_.map.budget_slots() : pages;
        places_.push_back({take(fast, slots * kv.slot()), take(slow, kind.slow * pages * kv.slot()),
                           take(sketch, kind.sketch * kv.kv_heads * pages *
                                            kv.sketch_bytes(kind.sketch_kind) / 2)});
      }
    }
    device_fast_ = device_array<uint16_t>(fast.size());
    device_sketch_ = device_array<uint16_t>(sketch.size());
    host_slow_ = PinnedBuffer(slow.size() * sizeof(uint16_t), 4);
    sequence_ = to_device(sizes_.order);
    layers_ = to_device(table());
    tokens_ = device_array<int64_t>(sizes_.max_pages.size());
  }

  const Sizes& sizes() const { return sizes_; }
  int sequences() const { return static_cast<int>(sizes_.max_pages.size()); }
  int rows() const { return static_cast<int>(sizes_.order.size()) * sizes_.kv.kv_heads; }

  /// Brings the model to the device.
  void send() {
    copy_to_device(fast, device_fast_.data());
    copy_to_device(sketch, device_sketch_.data());
    if (!slow.empty()) std::memcpy(host_slow_.data(), slow.data(), slow.size() * sizeof(uint16_t));
  }
  void set_tokens(const std::vector<int64_t>& tokens) { copy_to_device(tokens, tokens_.data()); }

  Values device_fast() const { return to_host<uint16_t>(device_fast_); }
  Values device_sketch() const { return to_host<uint16_t>(device_sketch_); }
  Values device_slow() const {
    Values result(slow.size());
    if (!slow.empty()) {
      std::memcpy(result.data(), host_slow_.data(), slow.size() * sizeof(uint16_t));
    }
    return result;
  }

  Batch batch() const {
    return {static_cast<int32_t>(sizes_.order.size()), static_cast<int32_t>(sizes_.layers.size()),
            sequence_.as<int32_t>(), tokens_.as<int64_t>(), layers_.as<SequenceLayer>()};
  }
  SequenceLayer device_layer(int sequence, int layer) const { return table()[at(sequence, layer)]; }

  // The model's parts of one layer of one sequence; what there is none of must not be asked for.
  uint16_t* fast_of(int sequence, int layer) {
    return fast.data() + places_[at(sequence, layer)].fast;
  }
  uint16_t* slow_of(int sequence, int layer) {
    return slow.data() + places_[at(sequence, layer)].slow;
  }
  uint16_t* sketch_of(int sequence, int layer) {
    return sketch.data() + places_[at(sequence, layer)].sketch;
  }

  Values fast, slow, sketch;

 private:
  struct Place {
    size_t fast, slow, sketch;
  };

  static size_t take(Values& from, int64_t count) {
    const size_t begin = from.size();
    from.resize(begin + static_cast<size_t>(count), kPoison);
    return begin;
  }
  size_t at(int sequence, int layer) const {
    return static_cast<size_t>(sequence) * sizes_.layers.size() + static_cast<size_t>(layer);
  }
  std::vector<SequenceLayer> table() const {
    std::vector<SequenceLayer> result;
    for (int s = 0; s < sequences(); ++s) {
      for (size_t l = 0; l < sizes_.layers.size(); ++l) {
        const LayerKind& kind = sizes_.layers[l];
        const Place& place = places_[at(s, static_cast<int>(l))];
        SequenceLayer layer;
        layer.budgeted = kind.budgeted;
        layer.token_major = kind.token_major;
        layer.max_pages = sizes_.max_pages[static_cast<size_t>(s)];
        layer.fast = device_fast_.as<uint16_t>() + place.fast;
        if (kind.slow) layer.slow = host_slow_.device() + place.slow * sizeof(uint16_t);
        layer.sketch_kind = kind.sketch_kind;
        if (kind.sketch) layer.sketch = device_sketch_.as<uint16_t>() + place.sketch;
        result.push_back(layer);
      }
    }
    return result;
  }

  Sizes sizes_;
  std::vector<Place> places_;
  DeviceBuffer device_fast_, device_sketch_, sequence_, layers_, tokens_;
  PinnedBuffer host_slow_;
};

}  // namespace freekv::cuda::cases

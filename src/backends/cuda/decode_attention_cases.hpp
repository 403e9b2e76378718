// The batches that decode attention is tested with: KV in random places of the fast tier and the
// tables that say where, next to a plain loop in double precision. What no row may read is NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "backends/cuda/decode_attention.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda::decode_cases {

/// Never null, also for no values.
template <typename T>
DeviceBuffer upload(const std::vector<T>& values) {
  return values.empty() ? device_array<T>(1) : to_device(values);
}

/// A sequence in one layer: T, whether the layer holds a budget only, and whether the rows attend
/// to everything.
struct SequenceCase {
  int64_t tokens = 1;
  bool budgeted = false;
  RowMode mode = RowMode::kDense;
};

/// A page that a row attends to.
struct Place {
  int32_t slot = 0;
  int tokens = 0;
};

inline PageMap page_map(int page) {
  PageMap map;
  map.page = page;
  map.sink = 2;
  map.window = 2;
  map.selected = 5;
  map.resident = 8;
  map.budget = int64_t{map.sink + map.window + map.selected} * page;
  return map;
}

/// The fast tier and tables of one sequence in one layer.
class SequenceKv {
 public:
  SequenceKv(const KvGeometry& kv, const PageMap& map, const SequenceCase& c, uint32_t seed)
      : kv_(kv), map_(map), case_(c), pages_(map.pages(c.tokens)), random_(seed) {
    const int32_t slots = c.budgeted ? map.budget_slots() : pages_ + 2;
    fast_.assign(static_cast<size_t>(slots * kv.slot()), 0xffff);
    for (int head = 0; head < kv.kv_heads; ++head) {
      places_.push_back(c.mode == RowMode::kDense ? place_all() : place_selected(head));
      for (const Place& place : places_.back()) fill(place, head);
    }
    count_.resize(static_cast<size_t>(kv.kv_heads), 0);  // a dense row's may be read, too
    device_fast_ = upload(fast_);
    device_selected_ = upload(selected_);
    device_count_ = upload(count_);
    device_table_ = upload(table_);
  }

  SequenceLayer layer() const {
    SequenceLayer layer;
    layer.budgeted = case_.budgeted;
    layer.retrieves = case_.mode != RowMode::kDense;
    layer.max_pages = pages_ + 1;
    layer.fast = device_fast_.data();
    layer.selected = device_selected_.as<int32_t>();
    layer.selected_count = device_count_.as<int32_t>();
    layer.slot_of_page = device_table_.as<int32_t>();
    return layer;
  }

  /// out[g] of one row, by the definition.
  std::vector<float> expected(int head, const float* q, float scale) const {
    std::vector<float> out;
    for (int g = 0; g < kv_.group; ++g) attend(head, q + g * kv_.head_dim, scale, out);
    return out;
  }

 private:
  int tokens_in(int32_t page) const {
    return static_cast<int>(std::min<int64_t>(kv_.page, case_.tokens - int64_t{page} * kv_.page));
  }
  Place common(int32_t page) const {
    return {case_.budgeted ? map_.common_slot(page) : page, tokens_in(page)};
  }

  std::vector<Place> place_all() const {
    std::vector<Place> places;
    for (int32_t page = 0; page < pages_; ++page) places.push_back(common(page));
    return places;
  }

  std::vector<int32_t> shuffled(int32_t first, int32_t last) {
    std::vector<int32_t> values(static_cast<size_t>(last - first));
    std::iota(values.begin(), values.end(), first);
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random_() % i]);
    return values;
  }

  /// Chooses pages, different ones and not always k of them, and fills the row's tables.
  std::vector<Place> place_selected(int head) {
    std::vector<int32_t> chosen = shuffled(map_.sink, map_.window_begin(case_.tokens));
    chosen.resize(static_cast<size_t>(map_.selected - head % 3));
    std::sort(chosen.begin(), chosen.end());
    const std::vector<int32_t> slots = shuffled(0, map_.resident);
    const size_t list = selected_.size();
    const size_t table = table_.size();
    selected_.resize(list + static_cast<size_t>(map_.selected), -1);
    table_.resize(table + static_cast<size_t>(pages_ + 1), -1);
    count_.push_back(static_cast<int32_t>(chosen.size()));

    std::vector<Place> places;
    for (int32_t page = 0; page < map_.sink; ++page) places.push_back(common(page));
    for (size_t i = 0; i < chosen.size(); ++i) {
      selected_[list + i] = chosen[i];
      table_[table + static_cast<size_t>(chosen[i])] = slots[i];
      places.push_back({case_.budgeted ? map_.sink + slots[i] : chosen[i], kv_.page});
    }
    for (int32_t page = map_.window_begin(case_.tokens); page < pages_; ++page) {
      places.push_back(common(page));
    }
    return places;
  }

  void fill(const Place& place, int head) {
    const std::vector<float> values =
        cases::random_floats(int64_t{2} * place.tokens * kv_.head_dim, random_());
    const float* next = values.data();
    for (int t = 0; t < place.tokens; ++t) {
      for (const int64_t at :
           {kv_.fast_key(place.slot, t, head), kv_.fast_value(place.slot, t, head)}) {
        auto* row = reinterpret_cast<std::byte*>(fast_.data() + at);
        for (int e = 0; e < kv_.head_dim; ++e) store_element(dtype_of(kv_.type), row, e, *next++);
      }
    }
  }

  std::vector<float> load(int64_t at) const {
    std::vector<float> values(static_cast<size_t>(kv_.head_dim));
    const auto* row = reinterpret_cast<const std::byte*>(fast_.data() + at);
    for (size_t e = 0; e < values.size(); ++e) {
      values[e] = load_element(dtype_of(kv_.type), row, static_cast<int64_t>(e));
    }
    return values;
  }

  void attend(int head, const float* q, float scale, std::vector<float>& out) const {
    std::vector<double> scores;
    for (const Place& place : places_[static_cast<size_t>(head)]) {
      for (int t = 0; t < place.tokens; ++t) {
        const std::vector<float> key = load(kv_.fast_key(place.slot, t, head));
        scores.push_back(scale * std::inner_product(key.begin(), key.end(), q, 0.0));
      }
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double mass = 0;
    std::vector<double> sum(static_cast<size_t>(kv_.head_dim));
    const double* next = scores.data();
    for (const Place& place : places_[static_cast<size_t>(head)]) {
      for (int t = 0; t < place.tokens; ++t) {
        const double weight = std::exp(*next++ - top);
        const std::vector<float> value = load(kv_.fast_value(place.slot, t, head));
        mass += weight;
        for (size_t e = 0; e < sum.size(); ++e) sum[e] += weight * value[e];
      }
    }
    for (const double x : sum) out.push_back(static_cast<float>(x / mass));
  }

  KvGeometry kv_;
  PageMap map_;
  SequenceCase case_;
  int32_t pages_;
  std::mt19937 random_;
  std::vector<uint16_t> fast_;
  std::vector<int32_t> selected_;
  std::vector<int32_t> count_;
  std::vector<int32_t> table_;
  std::vector<std::vector<Place>> places_;  // [M]
  DeviceBuffer device_fast_;
  DeviceBuffer device_selected_;
  DeviceBuffer device_count_;
  DeviceBuffer device_table_;
};

/// A batch on the device. The sequences stand in another order than in the batch, and their layer
/// is the second of two.
class Inputs {
 public:
  static constexpr int kLayers = 2;
  static constexpr int kLayer = 1;

  Inputs(const KvGeometry& kv, const std::vector<SequenceCase>& sequences, float deviation = 1)
      : kv_(kv), map_(page_map(kv.page)), n_(static_cast<int32_t>(sequences.size())) {
    std::vector<int32_t> order;
    std::vector<int64_t> tokens(sequences.size() + 1);
    std::vector<SequenceLayer> layers((sequences.size() + 1) * kLayers);
    std::vector<RowMode> modes;
    for (size_t b = 0; b < sequences.size(); ++b) {
      const size_t at = sequences.size() - b;
      kv_of_.emplace_back(kv, map_, sequences[b], static_cast<uint32_t>(7 * b + 1));
      order.push_back(static_cast<int32_t>(at));
      tokens[at] = sequences[b].tokens - 1;
      layers[at * kLayers + kLayer] = kv_of_.back().layer();
      modes.insert(modes.end(), static_cast<size_t>(kv.kv_heads), sequences[b].mode);
    }
    q_ = cases::random_floats(size(), 99, deviation);
    order_ = upload(order);
    tokens_ = upload(tokens);
    layers_ = upload(layers);
    modes_ = upload(modes);
    device_q_ = upload(q_);
    out_ = device_array<float>(static_cast<size_t>(size()));
  }

  int64_t row_size() const { return int64_t{1} * kv_.group * kv_.head_dim; }
  int64_t rows() const { return int64_t{n_} * kv_.kv_heads; }
  int64_t size() const { return rows() * row_size(); }

  /// The batch, or only its b-th sequence.
  DecodeAttentionParams params(int splits, float scale, int only = -1) const {
    const int b = std::max(only, 0);
    DecodeAttentionParams params;
    params.batch = {only < 0 ? n_ : 1, kLayers, order_.as<int32_t>() + b, tokens_.as<int64_t>(),
                    layers_.as<SequenceLayer>()};
    params.kv = kv_;
    params.map = map_;
    params.layer = kLayer;
    params.scale = scale;
    params.q = device_q_.as<float>() + b * kv_.kv_heads * row_size();
    params.mode = modes_.as<RowMode>() + b * kv_.kv_heads;
    params.out = out_.as<float>();
    params.splits = splits;
    return params;
  }

  std::vector<float> run(const DecodeAttentionParams& params) const {
    poison();
    decode_attention(params, nullptr);
    return result(params.batch.n);
  }
  void poison() const {
    const std::vector<float> nothing = cases::poisoned(size());
    check_cuda(cudaMemcpy(out_.data(), nothing.data(), nothing.size() * sizeof(float),
                          cudaMemcpyHostToDevice),
               "poison");
  }
  std::vector<float> result(int n) const {
    std::vector<float> out(static_cast<size_t>(n * kv_.kv_heads * row_size()));
    check_cuda(cudaDeviceSynchronize(), "decode_attention");
    check_cuda(
        cudaMemcpy(out.data(), out_.data(), out.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "download");
    return out;
  }

  std::vector<float> expected(float scale) const {
    std::vector<float> out;
    for (int64_t r = 0; r < rows(); ++r) {
      const std::vector<float> row = kv_of_[static_cast<size_t>(r / kv_.kv_heads)].expected(
          static_cast<int>(r % kv_.kv_heads), q_.data() + r * row_size(), scale);
      out.insert(out.end(), row.begin(), row.end());
    }
    return out;
  }

 private:
  KvGeometry kv_;
  PageMap map_;
  int32_t n_;
  std::vector<SequenceKv> kv_of_;
  std::vector<float> q_;
  DeviceBuffer order_;
  DeviceBuffer tokens_;
  DeviceBuffer layers_;
  DeviceBuffer modes_;
  DeviceBuffer device_q_;
  DeviceBuffer out_;
};

}  // namespace freekv::cuda::decode_cases

// One timed cell of a benchmark with synthetic weights: a policy at a context and batch.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "backends/device_bench.hpp"
#include "synthetic/options.hpp"

namespace freekv::app {

/// A model on the device, and what limits a step of it: measured in the same run.
struct Subject {
  BenchModel& model;
  SyntheticShape shape;
  BenchModel::Weights weights;
  double link_GB_s = 0;

  /// GB/s of reading the weights once.
  double read_GB_s() const { return static_cast<double>(weights.bytes) / weights.read_ms * 1e-6; }
};

/// The shape with the pages and KV type of the options.
SyntheticShape shape_of(const SyntheticOptions& options);

/// What holds `room` tokens of a sequence under `policy`: NAME or NAME:key=value,... as everywhere,
/// and `blocking`, which is freekv that selects and recalls with the current query while it waits.
/// Throws Error for a policy or budget that cannot be.
BenchCache cache_of(const SyntheticOptions& options, const std::string& policy, int64_t room);

/// Throws Error(kInternal) unless the first retrieving policy within its budget gives dense
/// attention's logits.
void check_decode(const Subject& subject, const SyntheticOptions& options);

/// A row: time per step, bytes held and moved, shares of what the machine can do. Throws
/// Error(kOutOfMemory) where it does not fit.
nlohmann::json measure(const Subject& subject, const SyntheticOptions& options,
                       const std::string& policy, int64_t context, int batch);

/// Where the time of `row` goes, from the times of steps that lack one part after the other
/// (split.cc); `how` says so in words.
nlohmann::json time_split(const Subject& subject, const SyntheticOptions& options,
                          const nlohmann::json& row);

}  // namespace freekv::app

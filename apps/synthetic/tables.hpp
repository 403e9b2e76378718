// What `freekv bench` with synthetic weights prints; each fills `results` as it goes.
#pragma once

#include "backends/device_bench.hpp"
#include "synthetic/cell.hpp"
#include "synthetic/results.hpp"

namespace freekv::app {

/// Policies over contexts and batches.
void decode_table(const Subject& subject, const SyntheticOptions& options, Results& results);
/// From published systems' recall to ours, one change at a time.
void ablation_table(const Subject& subject, SyntheticOptions options, Results& results);
/// Prompts, their rate counted on the arithmetic that the model asks for.
void prefill_table(const Subject& subject, const SyntheticOptions& options, Results& results);
/// GB/s of recall alone, by page size and CTAs.
void gather_table(const DeviceBench& bench, Results& results);

}  // namespace freekv::app

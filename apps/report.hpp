// Statistics of a generation, as text or as one line of JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "freekv/engine.hpp"

namespace freekv::app {

enum class StatsFormat { kText, kJson, kNone };

/// All counters of a finished generation; keys are those of RetrievalStats and MemoryStats.
nlohmann::ordered_json generation_json(const Engine& engine, const Sequence& sequence,
                                       const GenerateRequest& request,
                                       const GenerateResult& result);
std::string generation_text(const Sequence& sequence, const GenerateRequest& request,
                            const GenerateResult& result);

/// Milliseconds per decode step; the first token comes with the prefill and costs no step.
double decode_ms(const GenerateResult& result);
/// Hits among selected pages, 0 when none were selected.
double hit_rate(const RetrievalStats& stats);
/// Share of drift tests that failed.
double drift_rate(const RetrievalStats& stats);

}  // namespace freekv::app

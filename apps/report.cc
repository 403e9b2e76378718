#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "engine_flags.hpp"

namespace freekv::app {
namespace {

const char* end_name(GenerateResult::End end) {
  switch (end) {
    case GenerateResult::End::kLength:
      return "length";
    case GenerateResult::End::kEndToken:
      return "end";
    case GenerateResult::End::kContext:
      return "context";
    case GenerateResult::End::kCancelled:
      return "cancelled";
  }
  return "?";
}

double ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double rate(size_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

}  // namespace

double decode_ms(const GenerateResult& result) {
  return result.decode_steps > 0
             ? 1e3 * result.decode_seconds / static_cast<double>(result.decode_steps)
             : 0;
}

double hit_rate(const RetrievalStats& stats) { return ratio(stats.hits, stats.pages_selected); }

double drift_rate(const RetrievalStats& stats) {
  return ratio(stats.drifted(), stats.corrections_tested);
}

nlohmann::ordered_json generation_json(const Engine& engine, const Sequence& sequence,
                                       const GenerateRequest& request,
                                       const GenerateResult& result) {
  const RetrievalStats& stats = sequence.stats();
  const MemoryStats memory = sequence.memory();
  return {{"model", engine.model().name},
          {"policy", engine.options().policy},
          {"backend", engine.options().backend},
          {"device", engine.device()},
          {"threads", engine.options().threads},
          {"prompt_tokens", request.prompt.size()},
          {"generated_tokens", result.tokens.size()},
          {"end", end_name(result.end)},
          {"prefill_s", result.prefill_seconds},
          {"prefill_tok_s", rate(request.prompt.size(), result.prefill_seconds)},
          {"decode_s", result.decode_seconds},
          {"decode_ms", decode_ms(result)},
          {"fast_kv_bytes", memory.fast_kv_bytes},
          {"slow_kv_bytes", memory.slow_kv_bytes},
          {"sketch_bytes", memory.sketch_bytes},
          {"pages_selected", stats.pages_selected},
          {"hits", stats.hits},
          {"misses_before", stats.misses_before},
          {"misses_after", stats.misses_after},
          {"bytes_recalled", stats.bytes_recalled},
          {"bytes_offloaded", stats.bytes_offloaded},
          {"corrections_tested", stats.corrections_tested},
          {"drifted", stats.drifted()},
          {"drifted_by_layer", stats.drifted_by_layer},
          {"lost_mass", stats.lost_mass()},
          {"wait_ms", static_cast<double>(stats.wait_ns) * 1e-6}};
}

std::string generation_text(const Sequence& sequence, const GenerateRequest& request,
                            const GenerateResult& result) {
  const RetrievalStats& stats = sequence.stats();
  const MemoryStats memory = sequence.memory();
  std::string text = fmt::format(
      "prefill  {} tokens in {:.2f} s, {:.0f} tokens/s\n"
      "decode   {} tokens, {:.2f} ms/token ({})\n"
      "KV       fast tier {}, slow tier {}, sketches {}\n",
      format_count(static_cast<int64_t>(request.prompt.size())), result.prefill_seconds,
      rate(request.prompt.size(), result.prefill_seconds),
      format_count(static_cast<int64_t>(result.tokens.size())), decode_ms(result),
      end_name(result.end), format_bytes(static_cast<double>(memory.fast_kv_bytes)),
      format_bytes(static_cast<double>(memory.slow_kv_bytes)),
      format_bytes(static_cast<double>(memory.sketch_bytes)));
  if (stats.pages_selected > 0) {
    text += fmt::format(
        "pages    {} selected: {:.1f} % resident, {} recalled before attention, {} after; {}\n",
        format_count(static_cast<int64_t>(stats.pages_selected)), 100 * hit_rate(stats),
        format_count(static_cast<int64_t>(stats.misses_before)),
        format_count(static_cast<int64_t>(stats.misses_after)),
        format_bytes(static_cast<double>(stats.bytes_recalled)));
  }
  if (stats.corrections_tested > 0) {
    text += fmt::format("drifted  {:.1f} % of heads; attention waited {:.1f} ms for recall\n",
                        100 * drift_rate(stats), static_cast<double>(stats.wait_ns) * 1e-6);
  }
  if (stats.lost_mass_count > 0) {
    text += fmt::format("lost     {:.2f} % of the attention mass, as the sketches estimate it\n",
                        100 * stats.lost_mass());
  }
  return text;
}

}  // namespace freekv::app

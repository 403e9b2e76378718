// Recall alone, by page size and CTAs.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "synthetic/tables.hpp"

namespace freekv::app {
namespace {

constexpr double kBarGBs = 45;
constexpr int kHeads = 8;

}  // namespace

void gather_table(const DeviceBench& bench, Results& results) {
  const std::vector<int> all_ctas = {1, 2, 4, 8, 16, 32};
  const KvShape shapes[] = {{kHeads, 64, 16, DType::kBF16},
                            {kHeads, 64, 32, DType::kBF16},
                            {kHeads, 128, 32, DType::kBF16},
                            {kHeads, 128, 64, DType::kBF16}};
  double best = 0;
  fmt::print("{:<13} {:>10} {:>9}  GB/s with CTAs:", "kernel", "page bytes", "in all");
  for (const int ctas : all_ctas) fmt::print(" {:>6}", ctas);
  fmt::print("\n");
  for (const size_t total : {size_t{4} << 20, size_t{16} << 20}) {
    for (const KvShape& kv : shapes) {
      const size_t page_bytes = kv.head_page_bytes();
      std::string kernel;  // of the line under way
      for (const GatherRate& rate : bench.time_gather({kv, total, all_ctas})) {
        if (rate.kernel != kernel) {
          fmt::print("{}{:<13} {:>10} {:>5} MiB                 ", kernel.empty() ? "" : "\n",
                     rate.kernel, page_bytes, total >> 20);
          kernel = rate.kernel;
        }
        fmt::print(" {:>6.1f}", rate.GB_s);
        if (rate.ctas <= 8 && page_bytes == 16384 && rate.kernel == "gather") {
          best = std::max(best, rate.GB_s);
        }
        results.add({{"kernel", rate.kernel},
                     {"page_bytes", page_bytes},
                     {"total_bytes", total},
                     {"ctas", rate.ctas},
                     {"GB_s", rate.GB_s}});
      }
      fmt::print("\n");
      std::fflush(stdout);
    }
  }
  fmt::print("16 KiB pages, at most 8 CTAs: {:.1f} GB/s, the bar is {} ({})\n", best, kBarGBs,
             best >= kBarGBs ? "met" : "MISSED");
}

}  // namespace freekv::app

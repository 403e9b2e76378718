// freekv bench --shape and --gather-table: a GPU's backend with weights and KV made up there, for
// figures of models whose weights are not at hand. Drift of queries and turnover of selected pages,
// which random weights do not have, are forced.
#pragma once

#include "synthetic/options.hpp"

namespace freekv::app {

/// Loads the backend's library, checks its output, prints the table and writes options.json.
void bench_synthetic(const SyntheticOptions& options);

}  // namespace freekv::app

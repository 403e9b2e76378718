// The numbers of PageLayout on their way to device code.
#pragma once

#include "backends/cuda/layout.hpp"
#include "backends/device_model.hpp"

namespace freekv::cuda {

inline PageMap page_map(const DevicePages& pages) {
  return {.page = pages.page,
          .budget = pages.budget,
          .sink = pages.sink,
          .window = pages.window,
          .selected = pages.selected,
          .resident = pages.resident,
          .beside = pages.beside};
}

}  // namespace freekv::cuda

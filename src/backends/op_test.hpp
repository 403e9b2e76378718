// What the parity tests share besides the cases.
#pragma once

#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cstring>
#include <span>

namespace freekv {

/// Runs `body` once with every SIMD target that this machine has and the build contains, instead
/// of the best alone, so that the code for older machines is held to the reference as well.
template <typename Body>
void for_each_simd_target(Body&& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().DeInit();
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

}  // namespace freekv

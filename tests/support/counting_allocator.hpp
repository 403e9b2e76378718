// Counts what a program takes from the heap, on all its threads, by replacing operator new. For
// tests alone: a program that links it has every form of new and delete replaced.
#pragma once

#include <cstdint>

namespace freekv::testing_support {

// Counts from construction to the call of `stop`, or to its end. One at a time.
class AllocationCount {
 public:
  AllocationCount();
  ~AllocationCount() { stop(); }
  AllocationCount(const AllocationCount&) = delete;
  AllocationCount& operator=(const AllocationCount&) = delete;

  // Ends the count and returns the allocations seen.
  int64_t stop();
};

}  // namespace freekv::testing_support

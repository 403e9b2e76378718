// main() of every benchmark program.
#include "op_bench.hpp"

int main(int argc, char** argv) {
  freekv::bench::add_benchmarks();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

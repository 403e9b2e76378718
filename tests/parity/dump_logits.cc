// dump_logits MODEL BACKEND KV_TYPE POLICY PROMPT_TOKENS < ids > logits
//
// Reads token ids from standard input, prefills the first PROMPT_TOKENS and decodes the rest one by
// one (teacher forcing). Writes f32 logits [ids - PROMPT_TOKENS + 1, vocab] to standard output.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <vector>

#include "freekv/engine.hpp"

namespace {

void write_logits(const freekv::Sequence& sequence) {
  const auto logits = sequence.logits();
  std::fwrite(logits.data(), sizeof(float), logits.size(), stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: dump_logits MODEL BACKEND KV_TYPE POLICY PROMPT_TOKENS\n";
    return 2;
  }
  try {
    const std::vector<int32_t> ids{std::istream_iterator<int32_t>(std::cin), {}};
    const auto prompt = static_cast<size_t>(std::atoll(argv[5]));
    freekv::EngineOptions options;
    options.model = argv[1];
    options.backend = argv[2];
    options.kv_type = argv[3];
    options.policy = argv[4];
    options.threads = 2;
    freekv::Engine engine(options);
    const auto sequence = engine.new_sequence(static_cast<int64_t>(ids.size()));
    engine.prefill(*sequence, std::span(ids).first(prompt));
    write_logits(*sequence);
    freekv::Sequence* const batch[] = {sequence.get()};
    for (size_t i = prompt; i < ids.size(); ++i) {
      engine.decode(batch, std::span(ids).subspan(i, 1));
      write_logits(*sequence);
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}

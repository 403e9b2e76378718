#include "inputs.hpp"

namespace freekv::invariants {
namespace {

// SplitMix64: a sequence of numbers from a key made of what they are for.
class Noise {
 public:
  Noise(uint64_t seed, uint64_t kind, int64_t a, int64_t b, int64_t c) : state_(seed) {
    for (const uint64_t part :
         {kind, static_cast<uint64_t>(a), static_cast<uint64_t>(b), static_cast<uint64_t>(c)}) {
      state_ = next() ^ (part * 0x9E3779B97F4A7C15u);
    }
  }
  /// About normal: the sum of four uniform numbers, of variance 1.
  float normal() {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(next() >> 40) / 16777216.0f;
    return (sum - 2.0f) * 1.7320508f;
  }

 private:
  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

enum Kind : uint64_t { kTopic, kQuery, kRun, kKey, kValue };

}  // namespace

void Inputs::query(int layer, int64_t token, View<float, 3> q) const {
  for (int64_t m = 0; m < q.shape(0); ++m) {
    const int64_t topic = (token + 3 * m) / (7 + layer);
    for (int64_t g = 0; g < q.shape(1); ++g) {
      const int64_t head = m * q.shape(1) + g;
      Noise direction(seed_, kTopic, layer, head, topic);
      Noise noise(seed_, kQuery, layer, head, token);
      for (float& x : q[m][g].flat()) x = direction.normal() + 0.45f * noise.normal();
    }
  }
}

void Inputs::key_value(int layer, int64_t token, View<float, 2> k, View<float, 2> v) const {
  token -= token % alike_;
  for (int64_t m = 0; m < k.shape(0); ++m) {
    Noise run(seed_, kRun, layer, m, token / 11);
    Noise key(seed_, kKey, layer, m, token);
    Noise value(seed_, kValue, layer, m, token);
    for (float& x : k[m].flat()) x = 0.7f * run.normal() + key.normal();
    for (float& x : v[m].flat()) x = value.normal();
  }
}

}  // namespace freekv::invariants

#include "driver.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace freekv::invariants {
namespace {

constexpr int kMaxBatch = 8;

float scale_of(const Scenario& setup) { return 1.0f / std::sqrt(static_cast<float>(setup.dim)); }

template <typename T>
View<T, 3> view3(T* data, int64_t a, int64_t b, int64_t c) {
  return View<T, 3>(data, a, b, c);
}

}  // namespace

CacheConfig Scenario::cache_config() const {
  CacheConfig config;
  config.layers = layers;
  config.query_heads = kv_heads * group;
  config.shape = {kv_heads, dim, page, dtype};
  config.max_context = max_context;
  config.tokens = tokens;
  return config;
}

PlainCopy::PlainCopy(const Scenario& setup, Backend& backend) : backend_(backend) {
  const KvShape shape{setup.kv_heads, setup.dim, setup.page, setup.dtype};
  const auto pages = static_cast<int32_t>((setup.max_context + setup.page - 1) / setup.page);
  for (int layer = 0; layer < setup.layers; ++layer) {
    memory_.emplace_back(shape.slot_bytes() * static_cast<size_t>(pages));
    pools_.push_back({memory_.back().data(), shape, KvLayout::kNHD, pages});
  }
  pages_.resize(static_cast<size_t>(pages));
  std::iota(pages_.begin(), pages_.end(), 0);
}

void PlainCopy::append(ExecutionContext& ctx, int layer, int64_t position, View<const float, 3> k,
                       View<const float, 3> v) {
  const KvPool& to = pool(layer);
  const auto first = static_cast<size_t>(position / to.shape.page);
  backend_.append_kv(ctx, k, v, to, std::span<const int32_t>(pages_).subspan(first),
                     static_cast<int>(position % to.shape.page));
}

TestSequence::TestSequence(const Scenario& setup, const Policy& policy, Backend& backend,
                           uint64_t seed, CacheServices services)
    : inputs(seed),
      cache(setup.cache_config(), policy.plan(setup.cache_config()), backend, std::move(services)),
      state(policy.make_state(setup.cache_config())),
      plain(setup, backend),
      output(static_cast<size_t>(setup.layers * setup.kv_heads * setup.group * setup.dim)) {}

void TestSequence::restart(const Policy& policy, uint64_t seed) {
  inputs = Inputs(seed);
  cache.reset();
  state = policy.make_state(cache.config());
  outputs.clear();
}

Driver::Driver(const Scenario& setup, const std::string& specification,
               std::unique_ptr<Backend> backend)
    : setup_(setup),
      ctx_(setup.threads),
      backend_(std::move(backend)),
      policy_(make_policy(specification)),
      model_(setup.kv_heads, setup.group, setup.dim) {
  const int heads = setup.kv_heads * setup.group;
  BackendLimits limits;
  limits.max_rows = kMaxBatch;
  limits.max_chunk = setup.chunk;
  limits.max_pages = (setup.max_context + setup.page - 1) / setup.page;
  limits.heads = heads;
  limits.kv_heads = setup.kv_heads;
  limits.head_dim = setup.dim;
  limits.page = setup.page;
  backend_->reserve(ctx_, limits);
  const auto tokens = static_cast<size_t>(std::max<int64_t>(setup.chunk, kMaxBatch));
  q_.resize(tokens * static_cast<size_t>(heads * setup.dim));
  out_.resize(q_.size());
  log_mass_.resize(q_.size() / static_cast<size_t>(setup_.dim));
  k_.resize(tokens * static_cast<size_t>(setup.kv_heads * setup.dim));
  v_.resize(k_.size());
  rows_.resize(static_cast<size_t>(kMaxBatch * setup.kv_heads));
  sequences_.reserve(kMaxBatch);
  input_.resize(static_cast<size_t>(kMaxBatch * FakeModel::kInput));
}

std::unique_ptr<TestSequence> Driver::make_sequence(uint64_t seed, CacheServices services) {
  return std::make_unique<TestSequence>(setup_, *policy_, *backend_, seed, std::move(services));
}

void Driver::prefill(TestSequence& sequence, int64_t tokens) {
  const int heads = setup_.kv_heads * setup_.group;
  const int64_t end = sequence.cache.tokens() + tokens;
  while (sequence.cache.tokens() < end) {
    const int64_t position = sequence.cache.tokens();
    const int64_t n = std::min(setup_.chunk, end - position);
    const auto k = view3(k_.data(), n, setup_.kv_heads, setup_.dim);
    const auto v = view3(v_.data(), n, setup_.kv_heads, setup_.dim);
    const auto q = view3(q_.data(), n, heads, setup_.dim);
    const auto out = view3(out_.data(), n, heads, setup_.dim);
    for (int layer = 0; layer < setup_.layers; ++layer) {
      for (int64_t t = 0; t < n; ++t) {
        sequence.inputs.key_value(layer, position + t, k[t], v[t]);
        sequence.inputs.query(layer, position + t,
                              view3(q[t].data(), setup_.kv_heads, setup_.group, setup_.dim));
      }
      sequence.plain.append(ctx_, layer, position, k, v);
      const auto pages = sequence.cache.append_chunk(ctx_, layer, k, v);
      show_queries(sequence, layer, q, end, pages);
      if (!setup_.attend_in_prefill) continue;
      backend_->prefill_attention(ctx_,
                                  {q, pages.pool, pages.slots, position, scale_of(setup_), out});
      sequence.outputs.emplace_back(out.flat().begin(), out.flat().end());
    }
    sequence.cache.commit_chunk(n);
  }
  sequence.cache.finish_prefill(ctx_);
  policy_->on_prefill(ctx_, *backend_, {sequence.cache, *sequence.state, &model_});
  sequence.cache.end_prefill();
}

// Those of the prompt's last tokens that the policy asks for, as the engine does.
void Driver::show_queries(TestSequence& sequence, int layer, View<const float, 3> q, int64_t end,
                          const SequenceCache::PrefillPages& pages) {
  const int64_t position = sequence.cache.tokens(), n = q.shape(0);
  const int64_t observed = std::min(sequence.cache.needs().observed, end);
  const int64_t unseen = std::clamp<int64_t>(end - observed - position, 0, n);
  if (unseen == n) return;
  policy_->on_queries({ctx_,
                       *backend_,
                       layer,
                       scale_of(setup_),
                       {sequence.cache, *sequence.state, &model_},
                       view3(q[unseen].data(), n - unseen, q.shape(1), q.shape(2)),
                       position + unseen,
                       pages.pool,
                       pages.slots});
}

void Driver::step(std::span<TestSequence* const> batch) {
  const auto n = static_cast<int64_t>(batch.size());
  const int64_t rows = n * setup_.kv_heads;
  const auto q = view3(q_.data(), rows, setup_.group, setup_.dim);
  const auto out = view3(out_.data(), rows, setup_.group, setup_.dim);
  const View<float, 2> log_mass(log_mass_.data(), rows, setup_.group);
  sequences_.clear();
  for (TestSequence* each : batch) sequences_.push_back({each->cache, *each->state, &model_});
  // What the model above would know of its input: whose it is (FakeModel).
  const View<float, 2> input(input_.data(), n, FakeModel::kInput);
  for (int64_t s = 0; s < n; ++s) {
    FakeModel::describe(batch[static_cast<size_t>(s)]->inputs.seed(), input[s]);
  }
  for (int layer = 0; layer < setup_.layers; ++layer) {
    LayerStep step{ctx_,
                   *backend_,
                   layer,
                   scale_of(setup_),
                   sequences_,
                   q,
                   std::span(rows_).first(static_cast<size_t>(rows)),
                   input,
                   out,
                   log_mass};
    policy_->begin_layer(step);
    for (int64_t s = 0; s < n; ++s) {
      TestSequence& each = *batch[static_cast<size_t>(s)];
      const int64_t position = each.cache.tokens();
      const View<float, 2> k(k_.data(), setup_.kv_heads, setup_.dim);
      const View<float, 2> v(v_.data(), setup_.kv_heads, setup_.dim);
      each.inputs.key_value(layer, position, k, v);
      each.inputs.query(
          layer, position,
          view3(q[s * setup_.kv_heads].data(), setup_.kv_heads, setup_.group, setup_.dim));
      each.plain.append(ctx_, layer, position, view3(k.data(), 1, setup_.kv_heads, setup_.dim),
                        view3(v.data(), 1, setup_.kv_heads, setup_.dim));
      each.cache.append_token(ctx_, layer, k, v);
    }
    policy_->pages_for(step);
    if (on_rows) on_rows(step, batch);
    std::fill(out_.begin(), out_.end(), std::nanf(""));
    std::fill(log_mass_.begin(), log_mass_.end(), std::nanf(""));
    backend_->decode_attention(ctx_, q, step.rows, step.scale, out, log_mass);
    policy_->after_attention(step);
    if (on_layer_done) on_layer_done(step, batch);
    const auto size = static_cast<size_t>(setup_.kv_heads * setup_.group * setup_.dim);
    for (size_t s = 0; s < batch.size(); ++s) {
      std::copy_n(
          out_.begin() + static_cast<ptrdiff_t>(s * size), size,
          batch[s]->output.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(layer) * size));
    }
  }
  for (TestSequence* each : batch) each->cache.commit_token(ctx_);
}

void Driver::decode(std::span<TestSequence* const> batch, int count) {
  for (int i = 0; i < count; ++i) {
    step(batch);
    for (TestSequence* each : batch) each->outputs.push_back(each->output);
  }
}

void Driver::decode(TestSequence& sequence, int count) {
  TestSequence* one = &sequence;
  decode(std::span(&one, 1), count);
}

std::vector<std::vector<float>> run_alone(const Scenario& setup, const std::string& specification,
                                          uint64_t seed, int64_t prompt, int steps,
                                          CacheServices services) {
  Driver driver(setup, specification);
  const auto sequence = driver.make_sequence(seed, std::move(services));
  driver.prefill(*sequence, prompt);
  driver.decode(*sequence, steps);
  return std::move(sequence->outputs);
}

std::vector<std::vector<float>> run_dense(const Scenario& setup, uint64_t seed, int64_t prompt,
                                          int steps) {
  Driver driver(setup, "full");
  const auto sequence = driver.make_sequence(seed);
  // Whatever the policy and the cache would attend to, the plain copy's pages take its place.
  driver.on_rows = [&](LayerStep& step, std::span<TestSequence* const> batch) {
    const int64_t tokens = batch[0]->cache.tokens() + 1;
    const int page = setup.page;
    for (int head = 0; head < setup.kv_heads; ++head) {
      step.rows[static_cast<size_t>(head)] = {batch[0]->plain.pool(step.layer), head,
                                              batch[0]->plain.pages((tokens + page - 1) / page),
                                              static_cast<int>((tokens - 1) % page) + 1};
    }
  };
  driver.prefill(*sequence, prompt);
  driver.decode(*sequence, steps);
  return std::move(sequence->outputs);
}

}  // namespace freekv::invariants

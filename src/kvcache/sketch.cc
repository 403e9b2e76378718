#include "kvcache/sketch.hpp"

#include "core/check.hpp"

namespace freekv {

namespace {

template <typename Wanted>
std::string list_names(Wanted&& wanted) {
  std::string names;
  for (const Sketch* sketch : sketch_table()) {
    if (!wanted(*sketch)) continue;
    if (!names.empty()) names += ", ";
    names += sketch->name();
  }
  return names;
}

}  // namespace

void Sketch::score_listed(Backend&, const KvShape&, const SketchQuery&, std::span<const std::byte>,
                          std::span<const int32_t>, View<float, 2>) const {
  fail(ErrorCode::kInternal, "sketch {} has one stage", name());
}

void Sketch::add_values(Backend&, const KvShape&, std::span<const std::byte>, View<const float, 2>,
                        int64_t, View<float, 2>) const {
  fail(ErrorCode::kInternal, "sketch {} has no values", name());
}

std::string sketch_names() {
  return list_names([](const Sketch&) { return true; });
}

std::string mass_sketch_names() {
  return list_names([](const Sketch& s) { return s.score_kind() == ScoreKind::kLogMass; });
}

const Sketch& find_sketch(std::string_view name) {
  for (const Sketch* sketch : sketch_table()) {
    if (sketch->name() == name) return *sketch;
  }
  fail(ErrorCode::kInvalidArgument, "sketch is '{}', must be one of {}", name, sketch_names());
}

SketchStore::SketchStore(const Sketch& sketch, const KvShape& shape, int64_t max_pages)
    : sketch_(&sketch),
      shape_(shape),
      max_pages_(max_pages),
      head_bytes_(sketch.store_bytes(shape, max_pages)),
      memory_(head_bytes_ * static_cast<size_t>(shape.heads)) {}

void SketchStore::build(Backend& backend, const KvPool& pool, int32_t slot, int head,
                        int64_t page) {
  check_internal(page >= 0 && page < max_pages_, "page is {}, the sketches hold {}", page,
                 max_pages_);
  sketch_->build(backend, pool, slot, head, page,
                 {memory_.data() + head_bytes_ * static_cast<size_t>(head), head_bytes_});
}

void SketchStore::score(Backend& backend, int head, const SketchQuery& query, int64_t first,
                        View<float, 2> scores) const {
  check_internal(first >= 0 && first + scores.shape(1) <= max_pages_,
                 "pages {} to {} are scored, the sketches hold {}", first, first + scores.shape(1),
                 max_pages_);
  sketch_->score(backend, shape_, query, head_store(head), first, scores);
}

void SketchStore::score_listed(Backend& backend, int head, const SketchQuery& query,
                               std::span<const int32_t> pages, View<float, 2> scores) const {
  for (const int32_t page : pages) {
    check_internal(page >= 0 && page < max_pages_, "page {} is scored, the sketches hold {}", page,
                   max_pages_);
  }
  sketch_->score_listed(backend, shape_, query, head_store(head), pages, scores);
}

void SketchStore::add_values(Backend& backend, int head, View<const float, 2> weights,
                             int64_t first, View<float, 2> out) const {
  check_internal(first >= 0 && first + weights.shape(1) <= max_pages_,
                 "pages {} to {} are weighted, the sketches hold {}", first,
                 first + weights.shape(1), max_pages_);
  sketch_->add_values(backend, shape_, head_store(head), weights, first, out);
}

size_t SketchStore::used_bytes(int64_t pages) const {
  if (empty()) return 0;
  return sketch_->page_bytes(shape_) * static_cast<size_t>(pages) *
         static_cast<size_t>(shape_.heads);
}

}  // namespace freekv

#include "tokenizer/tokenizer_json.hpp"

#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.hpp"

namespace freekv {

using nlohmann::json;

// Called by the parser for every value in the order of the file.
class TokenizerJsonReader : public nlohmann::json_sax<json> {
 public:
  TokenizerJsonReader(size_t file_bytes, TokenizerLists& lists)
      : lists_(&lists), values_left_(kFreeValues + file_bytes / kBytesPerValue) {}

  json root;

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_float(double v, const std::string&) override { return value(v); }
  bool number_integer(int64_t v) override { return integer(v); }
  bool number_unsigned(uint64_t v) override {
    return v <= INT64_MAX ? integer(static_cast<int64_t>(v)) : value(v);
  }
  bool binary(json::binary_t&) override { return false; }  // not in text

  bool string(std::string& text) override {
    if (place_ == Place::kTree) return value(std::move(text));
    if (place_ == Place::kVocab) refuse_token();
    if (place_ == Place::kMerges) {
      lists_->merges_.push_back({keep(text), {}});
    } else {
      if (pair_size_ == 2) refuse_merge();
      auto& merge = lists_->merges_.back();
      (pair_size_++ == 0 ? merge.left : merge.right) = keep(text);
    }
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kTree && at_list("vocab")) {
      place_ = Place::kVocab;
      return enter();
    }
    return open(json::object());
  }
  bool start_array(size_t) override {
    if (place_ == Place::kTree && at_list("merges")) {
      place_ = Place::kMerges;
      return enter();
    }
    if (place_ == Place::kMerges) {
      place_ = Place::kPair;
      pair_size_ = 0;
      lists_->merges_.emplace_back();
      return enter();
    }
    return open(json::array());
  }
  bool key(std::string& text) override {
    if (place_ == Place::kVocab) {
      lists_->tokens_.push_back({keep(text), -1});
    } else {
      key_ = std::move(text);
    }
    return true;
  }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }

  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    fail(ErrorCode::kParse, "is not JSON: unexpected input at byte {}", position);
  }

 private:
  // A value of the tree takes some 100 bytes at most. Real files have one per 25 bytes.
  static constexpr size_t kBytesPerValue = 8;
  static constexpr size_t kFreeValues = 4096;

  enum class Place { kTree, kVocab, kMerges, kPair };

  // Whether the value that follows is this list of the model.
  bool at_list(std::string_view name) const {
    return open_.size() == 2 && in_model_ && key_ == name;
  }

  bool value(json v) {
    if (place_ == Place::kVocab) refuse_token();
    if (place_ != Place::kTree) refuse_merge();
    add(std::move(v));
    return true;
  }

  bool integer(int64_t v) {
    if (place_ != Place::kVocab) return value(v);
    lists_->tokens_.back().id = v;
    return true;
  }

  bool open(json container) {
    if (place_ == Place::kVocab) refuse_token();
    if (place_ != Place::kTree) refuse_merge();
    if (open_.size() == 1) in_model_ = root.is_object() && key_ == "model";
    json* added = add(std::move(container));
    open_.push_back(added);
    return enter();
  }

  bool enter() {
    if (++depth_ > kMaxJsonDepth) {
      fail(ErrorCode::kParse, "values are nested {} deep, at most {} are supported", depth_,
           kMaxJsonDepth);
    }
    return true;
  }

  bool leave() {
    --depth_;
    if (place_ == Place::kPair) {
      if (pair_size_ != 2) refuse_merge();
      place_ = Place::kMerges;
    } else if (place_ != Place::kTree) {
      place_ = Place::kTree;
    } else {
      open_.pop_back();
    }
    return true;
  }

  json* add(json v) {
    if (values_left_-- == 0) {
      fail(ErrorCode::kParse, "has more values than a tokenizer file of its size can need");
    }
    if (open_.empty()) {
      root = std::move(v);
      return &root;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    return &(parent[key_] = std::move(v));
  }

  TokenizerLists::Range keep(std::string_view text) {
    const TokenizerLists::Range range{lists_->arena_.size(), text.size()};
    lists_->arena_ += text;
    return range;
  }

  [[noreturn]] void refuse_token() const {
    fail(ErrorCode::kParse, "model.vocab: token {} has an id that is no integer",
         lists_->tokens_.size() - 1);
  }
  [[noreturn]] void refuse_merge() const {
    fail(ErrorCode::kParse, "model.merges: merge {} is neither a string nor a pair of strings",
         lists_->merges_.size() - (place_ == Place::kPair ? 1 : 0));
  }

  TokenizerLists* lists_;
  size_t values_left_;
  Place place_ = Place::kTree;
  int depth_ = 0;
  int pair_size_ = 0;
  bool in_model_ = false;
  std::string key_;
  std::vector<json*> open_;  // containers of the tree around the current value
};

json parse_tokenizer_json(std::string_view bytes, const std::string& name, TokenizerLists& lists) {
  TokenizerJsonReader reader(bytes.size(), lists);
  try {
    json::sax_parse(bytes.begin(), bytes.end(), &reader);
  } catch (const Error& error) {
    throw Error(error.code(), error.message(), name);
  }
  return std::move(reader.root);
}

}  // namespace freekv

// Tokenizer::from_folder: tokenizer.json and what stands beside it in a Hugging Face checkpoint.
#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/check.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"
#include "io/quote.hpp"
#include "tokenizer/folder_spec.hpp"
#include "tokenizer/json_field.hpp"
#include "tokenizer/resolve_merges.hpp"
#include "tokenizer/tokenizer.hpp"
#include "tokenizer/tokenizer_components.hpp"
#include "tokenizer/tokenizer_json.hpp"

namespace freekv {
namespace {

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// A file of the folder, nullopt when there is none, or no folder.
std::optional<MappedFile> open_if_there(const std::string& folder, std::string_view name) {
  if (folder.empty()) return std::nullopt;
  Result<MappedFile> file = MappedFile::open((std::filesystem::path(folder) / name).string());
  if (!file.ok() && file.error().code() == ErrorCode::kNotFound) return std::nullopt;
  return std::move(file).value();
}

// One of the small JSON files, absent when there is none.
class SideFile {
 public:
  SideFile(const std::string& folder, std::string_view name) {
    const std::optional<MappedFile> file = open_if_there(folder, name);
    if (!file) return;
    path_ = file->path();
    document_ = parse_json(text_of(*file), path_);
    if (!document_.is_object()) root().refuse(ErrorCode::kParse, "must be an object");
  }
  SideFile(const SideFile&) = delete;
  SideFile& operator=(const SideFile&) = delete;

  JsonField root() const { return {&document_, "", path_}; }
  JsonField member(const std::string& key) const {
    return document_.is_object() ? root().member(key) : JsonField(nullptr, key, path_);
  }

 private:
  std::string path_;
  nlohmann::json document_;
};

// Reads one folder; the views of spec() live as long as it does.
class FolderReader {
 public:
  // `path` stands for the bytes of tokenizer.json in errors; `folder` is empty where they are all.
  FolderReader(std::string_view bytes, const std::string& path, const std::string& folder)
      : folder_(folder),
        path_(path),
        config_(folder, "tokenizer_config.json"),
        special_map_(folder, "special_tokens_map.json") {
    document_ = parse_tokenizer_json(bytes, path_, lists_);
    spec_.source = path_;
    read_components(root(), spec_);
    try {
      read_model(root().member("model"));
      read_added_tokens();
    } catch (const Error& error) {
      throw error.where().empty() ? Error(error.code(), error.message(), path_) : error;
    }
    read_bos();
    read_ends();
    read_chat_template();
    spec_.padding = named_token("pad_token").value_or(kNoToken);
  }

  const TokenizerSpec& spec() const { return spec_; }

 private:
  JsonField root() const { return {&document_, "", path_}; }
  static bool is_set(TokenType type) { return type != TokenType::kUnused; }

  void read_model(const JsonField& model) {
    const JsonField type = model.member("type");
    if (type.string_or("BPE") != "BPE") type.refuse("the one supported is 'BPE'");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const JsonField affix = model.member(key);
      if (!affix.string_or("").empty()) affix.refuse("supported is none");
    }
    if (const JsonField dropout = model.member("dropout"); !dropout.absent()) {
      dropout.refuse("supported is none");
    }
    spec_.fuse_unknown = model.member("fuse_unk").boolean_or(false);
    spec_.whole_words_first = model.member("ignore_merges").boolean_or(false);
    byte_fallback_ = model.member("byte_fallback").boolean_or(false);
    if (lists_.token_count() == 0) fail(ErrorCode::kParse, "model.vocab has no tokens");
    reserve_ids();
    read_vocabulary();
    read_merges();
    if (const JsonField unknown = model.member("unk_token"); !unknown.absent()) {
      spec_.unknown = find_token(unknown.string());
      if (spec_.unknown == kNoToken) {
        unknown.refuse(ErrorCode::kParse, "no token of the vocabulary");
      }
    }
  }

  // Ids may leave gaps, but a small file must not ask for a large vocabulary.
  void reserve_ids() {
    const std::vector<JsonField> added = added_tokens();
    const auto limit = static_cast<int64_t>(2 * (lists_.token_count() + added.size()) + 1024);
    int64_t largest = -1;
    const auto check = [&](std::string_view text, int64_t id) {
      if (id < 0 || id >= limit) {
        fail(ErrorCode::kParse, "token {} has id {}, must be 0 to {} for {} tokens", quoted(text),
             id, limit - 1, lists_.token_count() + added.size());
      }
      largest = std::max(largest, id);
    };
    for (size_t i = 0; i < lists_.token_count(); ++i) {
      check(lists_.token(i).text, lists_.token(i).id);
    }
    for (const JsonField& token : added) {
      check(token.member("content").string(), token.member("id").integer());
    }
    const auto count = static_cast<size_t>(largest + 1);
    spec_.tokens.assign(count, {});
    spec_.types.assign(count, TokenType::kUnused);
    spec_.in_text.assign(count, 0);
  }

  void read_vocabulary() {
    for (size_t i = 0; i < lists_.token_count(); ++i) {
      const TokenizerLists::Token token = lists_.token(i);
      const auto id = static_cast<size_t>(token.id);
      if (is_set(spec_.types[id])) {
        fail(ErrorCode::kParse, "model.vocab: {} and {} have the same id {}",
             quoted(spec_.tokens[id]), quoted(token.text), id);
      }
      const bool byte = byte_fallback_ && spec_.spelling == TokenSpelling::kSentencePiece &&
                        spelt_byte(token.text) >= 0;
      spec_.tokens[id] = token.text;
      spec_.types[id] = byte ? TokenType::kByte : TokenType::kNormal;
      spec_.in_text[id] = 1;
    }
  }

  void read_merges() {
    spec_.merges.reserve(lists_.merge_count());
    for (size_t i = 0; i < lists_.merge_count(); ++i) {
      const TokenizerLists::Merge merge = lists_.merge(i);
      spec_.merges.push_back(merge.right.empty() ? split_merge(merge.left, i)
                                                 : MergeSpelling{merge.left, merge.right});
    }
  }

  std::vector<JsonField> added_tokens() const {
    const JsonField added = root().member("added_tokens");
    return added.absent() ? std::vector<JsonField>() : added.elements();
  }

  void read_added_tokens() {
    // Texts of the added tokens that the model's vocabulary does not have under their id.
    std::vector<std::string_view> missing;
    for (const JsonField& token : added_tokens()) {
      const std::string_view text = token.member("content").string();
      const auto id = static_cast<size_t>(token.member("id").integer());
      if (text.empty()) token.member("content").refuse(ErrorCode::kParse, "must be a text");
      if (!is_set(spec_.types[id])) {
        missing.push_back(text);
        spec_.tokens[id] = text;
      } else if (spec_.tokens[id] != text) {
        token.member("content").refuse(
            ErrorCode::kParse, fmt::format("but token {} is {}", id, quoted(spec_.tokens[id])));
      }
      const bool special = token.member("special").boolean_or(false);
      spec_.types[id] = special ? TokenType::kControl : TokenType::kUserDefined;
      spec_.added.push_back({static_cast<int32_t>(id), token.member("lstrip").boolean_or(false),
                             token.member("rstrip").boolean_or(false),
                             token.member("single_word").boolean_or(false),
                             token.member("normalized").boolean_or(false)});
    }
    std::sort(missing.begin(), missing.end());
    for (size_t i = 0; i < lists_.token_count(); ++i) {
      const TokenizerLists::Token token = lists_.token(i);
      if (std::binary_search(missing.begin(), missing.end(), token.text)) {
        fail(ErrorCode::kParse, "added token {} has another id than {}, its id in model.vocab",
             quoted(token.text), token.id);
      }
    }
  }

  int32_t find_token(std::string_view text) const {
    for (size_t id = 0; id < spec_.tokens.size(); ++id) {
      if (is_set(spec_.types[id]) && spec_.tokens[id] == text) return static_cast<int32_t>(id);
    }
    return kNoToken;
  }

  // The token that the configuration names by its text, itself or as an object with "content".
  std::optional<int32_t> named_token(const std::string& key) const {
    for (const SideFile* file : {&config_, &special_map_}) {
      const JsonField field = file->member(key);
      if (field.absent()) continue;
      const JsonField text = field.is_object() ? field.member("content") : field;
      return find_token(text.string());
    }
    return std::nullopt;
  }

  void read_bos() {
    const JsonField processor = root().member("post_processor");
    spec_.bos = read_template_bos(processor);
    spec_.add_bos = spec_.bos != kNoToken;
    if (spec_.bos != kNoToken && static_cast<size_t>(spec_.bos) >= spec_.tokens.size()) {
      processor.refuse(ErrorCode::kParse, fmt::format("its token {} is not in the vocabulary of {}",
                                                      spec_.bos, spec_.tokens.size()));
    }
    if (spec_.bos == kNoToken) spec_.bos = named_token("bos_token").value_or(kNoToken);
    // The Llama tokenizer of transformers makes its own template from this key.
    const JsonField add_bos = config_.member("add_bos_token");
    const std::string_view type = config_.member("tokenizer_class").string_or("");
    if (type.starts_with("LlamaTokenizer") && !add_bos.absent()) {
      spec_.add_bos = add_bos.boolean();
      if (*spec_.add_bos && spec_.bos == kNoToken) {
        add_bos.refuse(ErrorCode::kParse, "but bos_token names no token");
      }
    }
  }

  void read_ends() {
    spec_.eos = named_token("eos_token").value_or(kNoToken);
    const SideFile generation(folder_, "generation_config.json");
    const SideFile model(folder_, "config.json");
    const JsonField ids = !generation.member("eos_token_id").absent()
                              ? generation.member("eos_token_id")
                              : model.member("eos_token_id");
    if (ids.absent()) return;
    for (const JsonField& id : ids.is_array() ? ids.elements() : std::vector{ids}) {
      const int64_t value = id.integer();
      if (value < 0 || value >= static_cast<int64_t>(spec_.tokens.size())) {
        id.refuse(ErrorCode::kParse,
                  fmt::format("must be 0 to {}", static_cast<int64_t>(spec_.tokens.size()) - 1));
      }
      spec_.ends.push_back(static_cast<int32_t>(value));
    }
    if (spec_.eos == kNoToken && !spec_.ends.empty()) spec_.eos = spec_.ends.front();
  }

  // A string, or a list of named ones; a file of its own goes before both.
  void read_chat_template() {
    if (const auto file = open_if_there(folder_, "chat_template.jinja")) {
      spec_.chat_template = text_of(*file);
      return;
    }
    const JsonField field = config_.member("chat_template");
    if (field.absent()) return;
    if (!field.is_array()) {
      spec_.chat_template = field.string();
      return;
    }
    for (const JsonField& named : field.elements()) {
      if (named.member("name").string() != "default") continue;
      spec_.chat_template = named.member("template").string();
    }
  }

  std::string folder_;
  std::string path_;
  SideFile config_;
  SideFile special_map_;
  TokenizerLists lists_;
  nlohmann::json document_;
  bool byte_fallback_ = false;
  TokenizerSpec spec_;
};

}  // namespace

void with_folder_spec(const std::string& folder, FunctionRef<void(const TokenizerSpec&)> use) {
  const std::string path = (std::filesystem::path(folder) / "tokenizer.json").string();
  const MappedFile file = MappedFile::open(path).value();
  use(FolderReader(text_of(file), path, folder).spec());
}

Result<Tokenizer> Tokenizer::from_folder(const std::string& folder) {
  try {
    std::optional<Result<Tokenizer>> made;
    with_folder_spec(folder, [&](const TokenizerSpec& spec) { made.emplace(create(spec)); });
    return std::move(*made);
  } catch (const Error& error) {
    return error;
  }
}

Result<Tokenizer> Tokenizer::from_json(std::string_view bytes, const std::string& name) {
  try {
    return create(FolderReader(bytes, name, "").spec());
  } catch (const Error& error) {
    return error;
  }
}

}  // namespace freekv

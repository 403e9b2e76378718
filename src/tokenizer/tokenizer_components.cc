#include "tokenizer/tokenizer_components.hpp"

#include <limits>

#include "tokenizer/pre_tokenizer.hpp"

namespace freekv {
namespace {

std::string_view type_of(const JsonField& component) { return component.member("type").string(); }

[[noreturn]] void refuse_type(const JsonField& component, std::string_view supported) {
  component.member("type").refuse("supported here: " + std::string(supported));
}

// `field` is absent or `wanted`.
void require(const JsonField& field, bool holds, std::string_view wanted) {
  if (!holds) field.refuse("supported is " + std::string(wanted));
}

void require_mark(const JsonField& field) {
  require(field, field.string() == kSpaceMark, "U+2581");
}

// The normalizers of SentencePiece models: a mark before the text, and marks for spaces.
void read_prepend(const JsonField& normalizer, TokenizerSpec& spec) {
  require_mark(normalizer.member("prepend"));
  spec.normalizer.space_prefix = SpacePrefix::kAlways;
}

void read_replace(const JsonField& normalizer, TokenizerSpec& spec) {
  const JsonField pattern = normalizer.member("pattern").member("String");
  require(pattern, pattern.string() == " ", "one space");
  require_mark(normalizer.member("content"));
  spec.normalizer.unmark_spaces = true;
}

void read_normalizer(const JsonField& normalizer, TokenizerSpec& spec) {
  if (normalizer.absent()) return;
  const std::string_view type = type_of(normalizer);
  if (type == "NFC") {
    spec.normalizer.nfc = true;
  } else if (type == "Prepend" && !spec.normalizer.unmark_spaces) {
    read_prepend(normalizer, spec);
  } else if (type == "Replace") {
    read_replace(normalizer, spec);
  } else if (type == "Sequence") {
    for (const JsonField& part : normalizer.member("normalizers").elements()) {
      if (type_of(part) == "Sequence") refuse_type(part, "NFC, Prepend, Replace");
      read_normalizer(part, spec);
    }
  } else {
    refuse_type(normalizer, "NFC, Prepend (before Replace), Replace, Sequence");
  }
}

// Whether the ByteLevel pre-tokenizer cuts words itself, as GPT-2's does.
bool read_byte_level(const JsonField& byte_level) {
  const JsonField prefix = byte_level.member("add_prefix_space");
  require(prefix, !prefix.boolean_or(true), "false");
  return byte_level.member("use_regex").boolean_or(true);
}

std::string_view read_split(const JsonField& split) {
  // Every character is in some word, so that keeping matches and dropping what is none are one.
  const JsonField behavior = split.member("behavior");
  const bool invert = split.member("invert").boolean_or(false);
  require(behavior, behavior.string() == (invert ? "Removed" : "Isolated"),
          invert ? "'Removed' with invert" : "'Isolated' without invert");
  const JsonField expression = split.member("pattern").member("Regex");
  const auto name = PreTokenizer::name_of(expression.string());
  if (!name) expression.refuse("no pre-tokenizer of the supported families");
  return *name;
}

void read_metaspace(const JsonField& metaspace, TokenizerSpec& spec) {
  require_mark(metaspace.member("replacement"));
  NormalizerOptions& normalizer = spec.normalizer;
  if (normalizer.unmark_spaces || normalizer.space_prefix != SpacePrefix::kNever) {
    metaspace.member("type").refuse("supported without normalizers of spaces only");
  }
  const JsonField scheme = metaspace.member("prepend_scheme");
  const bool add = metaspace.member("add_prefix_space").boolean_or(true);
  const std::string_view name = scheme.string_or(add ? "always" : "never");
  if (name == "always") {
    normalizer.space_prefix = SpacePrefix::kAlways;
  } else if (name == "first") {
    normalizer.space_prefix = SpacePrefix::kFirst;
  } else {
    require(scheme, name == "never", "'always', 'first' or 'never'");
  }
  normalizer.unmark_spaces = true;
  normalizer.metaspace = true;
  spec.split_at_spaces = metaspace.member("split").boolean_or(true);
}

void read_pre_tokenizer(const JsonField& pre_tokenizer, TokenizerSpec& spec) {
  spec.spelling = TokenSpelling::kByteAlphabet;
  const std::string_view type = pre_tokenizer.absent() ? "" : type_of(pre_tokenizer);
  if (type.empty() || type == "Metaspace") {
    spec.spelling = TokenSpelling::kSentencePiece;
    if (type == "Metaspace") read_metaspace(pre_tokenizer, spec);
  } else if (type == "ByteLevel") {
    const JsonField regex = pre_tokenizer.member("use_regex");
    require(regex, read_byte_level(pre_tokenizer), "true, unless a Split comes before");
    spec.pre_tokenizer = "gpt-2";
  } else if (type == "Sequence") {
    const JsonField parts = pre_tokenizer.member("pretokenizers");
    const std::vector<JsonField> list = parts.elements();
    if (list.size() != 2) parts.refuse("supported is a Split and a ByteLevel");
    if (type_of(list[0]) != "Split") refuse_type(list[0], "Split");
    if (type_of(list[1]) != "ByteLevel") refuse_type(list[1], "ByteLevel");
    spec.pre_tokenizer = read_split(list[0]);
    const JsonField regex = list[1].member("use_regex");
    require(regex, !read_byte_level(list[1]), "false after a Split");
  } else {
    refuse_type(pre_tokenizer, "ByteLevel, Metaspace, Sequence");
  }
}

// Replace, ByteFallback, Fuse and, where there is a space prefix, Strip.
void read_sentencepiece_decoder(const JsonField& decoder, TokenizerSpec& spec) {
  if (type_of(decoder) != "Sequence") refuse_type(decoder, "Sequence");
  const JsonField parts = decoder.member("decoders");
  const std::vector<JsonField> list = parts.elements();
  constexpr std::string_view kTypes[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
  if (list.size() != 3 && list.size() != 4) {
    parts.refuse("supported are Replace, ByteFallback, Fuse and sometimes Strip");
  }
  for (size_t i = 0; i < list.size(); ++i) {
    if (type_of(list[i]) != kTypes[i]) refuse_type(list[i], kTypes[i]);
  }
  require_mark(list[0].member("pattern").member("String"));
  const JsonField content = list[0].member("content");
  require(content, content.string() == " ", "one space");
  if (list.size() < 4) return;
  const JsonField strip = list[3].member("content");
  require(strip, strip.string() == " ", "one space");
  require(list[3].member("start"), list[3].member("start").integer() == 1, "1");
  require(list[3].member("stop"), list[3].member("stop").integer() == 0, "0");
  spec.strip_leading_space = true;
}

}  // namespace

void read_components(const JsonField& document, TokenizerSpec& spec) {
  read_normalizer(document.member("normalizer"), spec);
  read_pre_tokenizer(document.member("pre_tokenizer"), spec);
  const JsonField decoder = document.member("decoder");
  if (spec.spelling == TokenSpelling::kSentencePiece) {
    require(document.member("normalizer"), spec.normalizer.unmark_spaces && !spec.normalizer.nfc,
            "Replace of spaces, or the pre-tokenizer Metaspace, without ByteLevel");
    read_sentencepiece_decoder(decoder, spec);
  } else {
    require(document.member("normalizer"),
            !spec.normalizer.unmark_spaces && spec.normalizer.space_prefix == SpacePrefix::kNever,
            "NFC or none with ByteLevel");
    if (type_of(decoder) != "ByteLevel") refuse_type(decoder, "ByteLevel");
  }
}

int32_t read_template_bos(const JsonField& post_processor) {
  if (post_processor.absent()) return kNoToken;
  const std::string_view type = type_of(post_processor);
  if (type == "ByteLevel") return kNoToken;  // moves offsets, not ids
  int32_t bos = kNoToken;
  if (type == "Sequence") {
    for (const JsonField& part : post_processor.member("processors").elements()) {
      if (type_of(part) == "Sequence") refuse_type(part, "ByteLevel, TemplateProcessing");
      const int32_t id = read_template_bos(part);
      if (id != kNoToken && bos != kNoToken) part.refuse("a second token at the beginning");
      if (id != kNoToken) bos = id;
    }
    return bos;
  }
  if (type != "TemplateProcessing") {
    refuse_type(post_processor, "ByteLevel, TemplateProcessing, Sequence");
  }
  bool in_sequence = false;
  for (const JsonField& part : post_processor.member("single").elements()) {
    const JsonField special = part.member("SpecialToken");
    if (special.absent()) {
      static_cast<void>(part.member("Sequence").member("id").string());
      if (in_sequence) part.refuse("a second sequence in the template");
      in_sequence = true;
      continue;
    }
    if (in_sequence || bos != kNoToken) part.refuse("supported is one token before the sequence");
    const std::string name(special.member("id").string());
    const JsonField ids = post_processor.member("special_tokens").member(name).member("ids");
    const std::vector<JsonField> list = ids.elements();
    if (list.size() != 1) ids.refuse("supported is one id");
    const int64_t id = list[0].integer();
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      list[0].refuse(ErrorCode::kParse, "must be a token id");
    }
    bos = static_cast<int32_t>(id);
  }
  return bos;
}

}  // namespace freekv

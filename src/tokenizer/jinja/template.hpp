// Jinja templates as chat models bring them: jinja2 with Hugging Face's settings, of which the
// subset that such templates use is implemented and everything else refused by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "freekv/error.hpp"
#include "tokenizer/jinja/syntax.hpp"
#include "tokenizer/jinja/value.hpp"

namespace freekv::jinja {

/// Immutable; rendering may run in several threads.
class Template {
 public:
  /// What a rendering may do in all, about one unit per byte written or looked at: some seconds of
  /// work and half a gigabyte at the very most.
  static constexpr size_t kDefaultLimit = size_t{512} << 20;

  /// The source is untrusted. Errors begin with the line: kParse, or kUnsupported for a feature of
  /// Jinja that is not implemented.
  static Result<Template> parse(std::string_view source);

  /// The text, with `variables` (by name) in reach of the template. Errors begin with the line:
  /// kInvalidArgument when the template refuses what it is given (raise_exception) or does what
  /// Python would refuse, kUnsupported, and kOutOfMemory beyond `limit`.
  Result<std::string> render(const Dict& variables, size_t limit = kDefaultLimit) const;

 private:
  explicit Template(Body body) : body_(std::make_shared<const Body>(std::move(body))) {}

  std::shared_ptr<const Body> body_;
};

}  // namespace freekv::jinja

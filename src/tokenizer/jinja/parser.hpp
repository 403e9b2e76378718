// Tokens to the syntax tree: what the parsers of expressions and of statements share.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.hpp"
#include "tokenizer/jinja/lexer.hpp"
#include "tokenizer/jinja/syntax.hpp"

namespace freekv::jinja {

/// Expressions, with the precedence and the oddities of jinja2's parser.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  /// Deepest nesting of a template: bounds the recursion of parser, interpreter and destructors.
  static constexpr int kMaxDepth = 200;

  /// Counts a level of the parser's recursion while it lives.
  class Level {
   public:
    explicit Level(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) parser_.fail_here("nested deeper than {}", kMaxDepth);
    }
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take();
  bool is_operator(std::string_view text) const {
    return current().is(Token::Kind::kOperator, text);
  }
  bool is_name(std::string_view text) const { return current().is(Token::Kind::kName, text); }
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  void expect(Token::Kind kind, std::string_view what);
  std::string expect_name();

  template <typename... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kParse, "line {}: {}", current().line,
         fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  [[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kUnsupported, "line {}: {} is not supported", current().line,
         fmt::format(format, std::forward<Args>(args)...));
  }

  ExpressionPtr expression() { return conditional(); }
  /// Without a conditional at its top: what follows `in` and `if`.
  ExpressionPtr unconditional() { return disjunction(); }
  /// An expression or, with commas, a tuple without parentheses.
  ExpressionPtr tuple(bool with_conditional);
  /// What a for or set assigns to.
  ExpressionPtr target(bool with_namespace);
  /// `| name(...)` applied to `value`, any number of them.
  ExpressionPtr filters(ExpressionPtr value);
  /// `name(...)` of a filter applied to `value`, which may be null.
  ExpressionPtr filter(ExpressionPtr value);

 private:
  using Kind = Expression::Kind;

  ExpressionPtr make(Kind kind, int line) const;
  ExpressionPtr make(Kind kind, int line, ExpressionPtr part) const;
  /// Refuses trees too deep; every node made of others passes through here.
  ExpressionPtr finish(ExpressionPtr node) const;

  ExpressionPtr conditional();
  ExpressionPtr disjunction();
  ExpressionPtr conjunction();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr filtered();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr value);
  ExpressionPtr filters_and_tests(ExpressionPtr value);
  ExpressionPtr subscript(ExpressionPtr value);
  ExpressionPtr call(ExpressionPtr value);
  void arguments(Expression& node);
  ExpressionPtr test(ExpressionPtr value);
  ExpressionPtr parenthesized();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr simple_target(bool with_namespace);
  bool tuple_ends() const;
  /// The operator that stands here, one of `texts`, taken; null when none does.
  struct Named {
    std::string_view text;
    Operator op;
  };
  const Named* take_operator(std::span<const Named> known);
  ExpressionPtr binary(std::span<const Named> known, ExpressionPtr (ExpressionParser::*operand)());

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace freekv::jinja

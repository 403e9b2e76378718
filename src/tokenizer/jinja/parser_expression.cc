// The parser's half that reads expressions.
#include "io/quote.hpp"
#include "tokenizer/jinja/parser.hpp"

namespace freekv::jinja {

Token ExpressionParser::take() {
  Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool ExpressionParser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) {
    fail_here("expected '{}', got {}", text, quoted(current().text));
  }
}

void ExpressionParser::expect(Token::Kind kind, std::string_view what) {
  if (current().kind != kind) fail_here("expected {}, got {}", what, quoted(current().text));
  take();
}

std::string ExpressionParser::expect_name() {
  if (current().kind != Token::Kind::kName) {
    fail_here("expected a name, got {}", quoted(current().text));
  }
  return take().text;
}

ExpressionPtr ExpressionParser::make(Kind kind, int line) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionPtr ExpressionParser::make(Kind kind, int line, ExpressionPtr part) const {
  ExpressionPtr node = make(kind, line);
  node->parts.push_back(std::move(part));
  return node;
}

ExpressionPtr ExpressionParser::finish(ExpressionPtr node) const {
  const auto deepen = [&](const ExpressionPtr& part) {
    if (part) node->depth = std::max(node->depth, part->depth + 1);
  };
  for (const ExpressionPtr& part : node->parts) deepen(part);
  for (const auto& [name, part] : node->keywords) deepen(part);
  if (node->depth > kMaxDepth) fail_here("an expression nested deeper than {}", kMaxDepth);
  return node;
}

ExpressionPtr ExpressionParser::conditional() {
  const Level level(*this);
  ExpressionPtr value = disjunction();
  while (is_name("if")) {
    ExpressionPtr node = make(Kind::kConditional, take().line, std::move(value));
    node->parts.push_back(disjunction());
    node->parts.push_back(skip_name("else") ? conditional() : nullptr);
    value = finish(std::move(node));
  }
  return value;
}

ExpressionPtr ExpressionParser::disjunction() {
  ExpressionPtr value = conjunction();
  while (is_name("or")) {
    ExpressionPtr node = make(Kind::kOr, take().line, std::move(value));
    node->parts.push_back(conjunction());
    value = finish(std::move(node));
  }
  return value;
}

ExpressionPtr ExpressionParser::conjunction() {
  ExpressionPtr value = negation();
  while (is_name("and")) {
    ExpressionPtr node = make(Kind::kAnd, take().line, std::move(value));
    node->parts.push_back(negation());
    value = finish(std::move(node));
  }
  return value;
}

ExpressionPtr ExpressionParser::negation() {
  if (!is_name("not")) return comparison();
  const Level level(*this);
  const int line = take().line;
  return finish(make(Kind::kNot, line, negation()));
}

const ExpressionParser::Named* ExpressionParser::take_operator(std::span<const Named> known) {
  for (const Named& candidate : known) {
    if (skip_operator(candidate.text)) return &candidate;
  }
  return nullptr;
}

ExpressionPtr ExpressionParser::comparison() {
  static constexpr Named kKnown[] = {{"==", Operator::kEqual},  {"!=", Operator::kNotEqual},
                                     {"<", Operator::kLess},    {"<=", Operator::kLessEqual},
                                     {">", Operator::kGreater}, {">=", Operator::kGreaterEqual}};
  ExpressionPtr node = make(Kind::kCompare, current().line, sum());
  while (true) {
    if (const Named* found = take_operator(kKnown)) {
      node->operators.push_back(found->op);
    } else if (skip_name("in")) {
      node->operators.push_back(Operator::kIn);
    } else if (is_name("not") && next().is(Token::Kind::kName, "in")) {
      take();
      take();
      node->operators.push_back(Operator::kNotIn);
    } else {
      break;
    }
    node->parts.push_back(sum());
  }
  if (node->operators.empty()) return std::move(node->parts[0]);
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::binary(std::span<const Named> known,
                                       ExpressionPtr (ExpressionParser::*operand)()) {
  ExpressionPtr value = (this->*operand)();
  while (true) {
    const int line = current().line;
    const Named* found = take_operator(known);
    if (!found) return value;
    ExpressionPtr node = make(Kind::kBinary, line, std::move(value));
    node->operators.push_back(found->op);
    node->parts.push_back((this->*operand)());
    value = finish(std::move(node));
  }
}

ExpressionPtr ExpressionParser::sum() {
  static constexpr Named kKnown[] = {{"+", Operator::kAdd}, {"-", Operator::kSubtract}};
  return binary(kKnown, &ExpressionParser::concatenation);
}

ExpressionPtr ExpressionParser::concatenation() {
  ExpressionPtr node = make(Kind::kConcatenate, current().line, product());
  while (skip_operator("~")) node->parts.push_back(product());
  if (node->parts.size() == 1) return std::move(node->parts[0]);
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::product() {
  static constexpr Named kKnown[] = {{"*", Operator::kMultiply},
                                     {"/", Operator::kDivide},
                                     {"//", Operator::kFloorDivide},
                                     {"%", Operator::kModulo}};
  return binary(kKnown, &ExpressionParser::power);
}

ExpressionPtr ExpressionParser::power() {
  static constexpr Named kKnown[] = {{"**", Operator::kPower}};
  return binary(kKnown, &ExpressionParser::filtered);
}

ExpressionPtr ExpressionParser::filtered() { return unary(true); }

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const Level level(*this);
  ExpressionPtr value;
  if (is_operator("-") || is_operator("+")) {
    const Kind kind = is_operator("-") ? Kind::kNegative : Kind::kPositive;
    const int line = take().line;
    value = finish(make(kind, line, unary(false)));
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filters ? filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const int line = current().line;
  if (is_operator("(")) return parenthesized();
  if (is_operator("[")) return list();
  if (is_operator("{")) return dict();
  ExpressionPtr node = make(Kind::kConstant, line);
  switch (current().kind) {
    case Token::Kind::kName: {
      const std::string name = take().text;
      if (name == "true" || name == "True") {
        node->value = true;
      } else if (name == "false" || name == "False") {
        node->value = false;
      } else if (name != "none" && name != "None") {
        node->kind = Kind::kName;
        node->name = name;
      }
      return node;
    }
    case Token::Kind::kString: {
      std::string text = take().text;
      while (current().kind == Token::Kind::kString) text += take().text;
      node->value = Value(std::move(text));
      return node;
    }
    case Token::Kind::kNumber:
      node->value = take().number;
      return node;
    default:
      fail_here("expected an expression, got {}", quoted(current().text));
  }
}

bool ExpressionParser::tuple_ends() const {
  return current().kind == Token::Kind::kVariableEnd || current().kind == Token::Kind::kBlockEnd ||
         is_operator(")") || is_name("in");
}

ExpressionPtr ExpressionParser::tuple(bool with_conditional) {
  const Level level(*this);
  ExpressionPtr node = make(Kind::kTuple, current().line);
  node->parts.push_back(with_conditional ? expression() : unconditional());
  if (!is_operator(",")) return std::move(node->parts[0]);
  while (skip_operator(",") && !tuple_ends()) {
    node->parts.push_back(with_conditional ? expression() : unconditional());
  }
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parenthesized() {
  const int line = take().line;
  ExpressionPtr value = is_operator(")") ? make(Kind::kTuple, line) : tuple(true);
  expect_operator(")");
  return value;
}

ExpressionPtr ExpressionParser::list() {
  ExpressionPtr node = make(Kind::kList, take().line);
  while (!is_operator("]")) {
    if (!node->parts.empty()) expect_operator(",");
    if (is_operator("]")) break;
    node->parts.push_back(expression());
  }
  expect_operator("]");
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::dict() {
  ExpressionPtr node = make(Kind::kDict, take().line);
  while (!is_operator("}")) {
    if (!node->parts.empty()) expect_operator(",");
    if (is_operator("}")) break;
    node->parts.push_back(expression());
    expect_operator(":");
    node->parts.push_back(expression());
  }
  expect_operator("}");
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      value = subscript(std::move(value));
    } else if (is_operator("(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr value) {
  while (true) {
    if (is_operator("|")) {
      value = filters(std::move(value));
    } else if (is_name("is")) {
      value = test(std::move(value));
    } else if (is_operator("(")) {
      value = call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr value) {
  const Token opening = take();
  if (opening.text == ".") {
    if (current().kind == Token::Kind::kName) {
      ExpressionPtr node = make(Kind::kAttribute, opening.line, std::move(value));
      node->name = take().text;
      return finish(std::move(node));
    }
    if (current().kind != Token::Kind::kNumber || current().number.is_float()) {
      fail_here("expected a name or a number, got {}", quoted(current().text));
    }
    ExpressionPtr node = make(Kind::kItem, opening.line, std::move(value));
    node->parts.push_back(make(Kind::kConstant, opening.line));
    node->parts[1]->value = take().number;
    return finish(std::move(node));
  }
  ExpressionPtr node = make(Kind::kItem, opening.line, std::move(value));
  const auto slice_part = [&]() -> ExpressionPtr {
    if (is_operator(":") || is_operator("]")) return nullptr;
    return expression();
  };
  ExpressionPtr first = slice_part();
  if (is_operator(":")) {
    node->kind = Kind::kSlice;
    node->parts.push_back(std::move(first));
    take();
    node->parts.push_back(slice_part());
    node->parts.push_back(skip_operator(":") ? slice_part() : nullptr);
  } else {
    if (!first) fail_here("expected an expression, got ']'");
    node->parts.push_back(std::move(first));
  }
  if (is_operator(",")) unsupported("a tuple as subscript");
  expect_operator("]");
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::call(ExpressionPtr value) {
  ExpressionPtr node = make(Kind::kCall, current().line, std::move(value));
  arguments(*node);
  return finish(std::move(node));
}

void ExpressionParser::arguments(Expression& node) {
  expect_operator("(");
  for (bool first = true; !is_operator(")"); first = false) {
    if (!first) expect_operator(",");
    if (is_operator(")")) break;
    if (is_operator("*") || is_operator("**")) unsupported("unpacking arguments with '*'");
    if (current().kind == Token::Kind::kName && next().is(Token::Kind::kOperator, "=")) {
      std::string name = take().text;
      take();
      node.keywords.emplace_back(std::move(name), expression());
    } else {
      if (!node.keywords.empty()) fail_here("a positional argument after a keyword");
      node.parts.push_back(expression());
    }
  }
  expect_operator(")");
}

ExpressionPtr ExpressionParser::filter(ExpressionPtr value) {
  ExpressionPtr node = make(Kind::kFilter, current().line, std::move(value));
  node->name = expect_name();
  if (is_operator("(")) arguments(*node);
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr value) {
  while (skip_operator("|")) value = filter(std::move(value));
  return value;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr value) {
  const Level level(*this);
  const int line = take().line;
  const bool negated = skip_name("not");
  ExpressionPtr node = make(Kind::kTest, line, std::move(value));
  node->name = expect_name();
  const bool operand = current().kind == Token::Kind::kString ||
                       current().kind == Token::Kind::kNumber || is_operator("[") ||
                       is_operator("{") ||
                       (current().kind == Token::Kind::kName && !is_name("else") &&
                        !is_name("or") && !is_name("and"));
  if (is_operator("(")) {
    arguments(*node);
  } else if (operand) {
    if (is_name("is")) fail_here("tests with 'is' in a row");
    node->parts.push_back(postfix(primary()));
  }
  node = finish(std::move(node));
  return negated ? finish(make(Kind::kNot, line, std::move(node))) : std::move(node);
}

ExpressionPtr ExpressionParser::simple_target(bool with_namespace) {
  const Level level(*this);
  if (skip_operator("(")) {
    ExpressionPtr node = target(with_namespace);
    expect_operator(")");
    return node;
  }
  ExpressionPtr node = primary();
  if (node->kind != Kind::kName) fail_here("only names can be assigned to");
  if (!with_namespace || !skip_operator(".")) return node;
  const int line = node->line;
  ExpressionPtr attribute = make(Kind::kAttribute, line, std::move(node));
  attribute->name = expect_name();
  return finish(std::move(attribute));
}

ExpressionPtr ExpressionParser::target(bool with_namespace) {
  ExpressionPtr node = make(Kind::kTuple, current().line);
  node->parts.push_back(simple_target(with_namespace));
  if (!is_operator(",")) return std::move(node->parts[0]);
  while (skip_operator(",") && !tuple_ends() && !is_operator("=")) {
    node->parts.push_back(simple_target(with_namespace));
  }
  return finish(std::move(node));
}

}  // namespace freekv::jinja

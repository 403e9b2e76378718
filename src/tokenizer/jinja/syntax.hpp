// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/jinja/value.hpp"

namespace freekv::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Operator : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

struct Expression {
  enum class Kind : uint8_t {
    kConstant,     // value
    kName,         // name
    kList,         // parts
    kTuple,        // parts
    kDict,         // parts: key, value, key, value, ...
    kAttribute,    // parts[0].name
    kItem,         // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], each of the three may be null
    kCall,         // parts[0](parts[1...], keywords)
    kFilter,       // parts[0] | name(parts[1...], keywords); parts[0] is null in a filter block
    kTest,         // parts[0] is name(parts[1...], keywords)
    kNot,          // parts[0]
    kNegative,     // parts[0]
    kPositive,     // parts[0]
    kAnd,          // parts[0], parts[1]
    kOr,           // parts[0], parts[1]
    kConcatenate,  // parts
    kBinary,       // parts[0] operators[0] parts[1]
    kCompare,      // parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConditional,  // parts[0] if parts[1] else parts[2], which may be null
  };
  Kind kind = Kind::kConstant;
  int line = 1;
  int depth = 1;  // of the tree from here down
  std::string name = {};
  Value value = {};
  std::vector<ExpressionPtr> parts = {};
  std::vector<std::pair<std::string, ExpressionPtr>> keywords = {};
  std::vector<Operator> operators = {};
};

struct Statement;
using Body = std::vector<Statement>;

struct Parameter {
  std::string name;
  ExpressionPtr value;  // the default, or null
};

struct Statement {
  enum class Kind : uint8_t {
    kText,        // name
    kPrint,       // value
    kIf,          // branches
    kFor,         // for target in value [if test]: body, else otherwise
    kSet,         // target = value
    kSetBlock,    // target = body [| value]
    kWith,        // parameters, body
    kMacro,       // name(parameters): body
    kCall,        // call(parameters) value: body
    kFilter,      // body | value
    kGeneration,  // body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr test;  // null for else
    Body body;
  };
  Kind kind = Kind::kText;
  int line = 1;
  std::string name = {};
  // A name, a tuple of targets, or an attribute (of a namespace).
  ExpressionPtr target = nullptr;
  ExpressionPtr value = nullptr;
  ExpressionPtr test = nullptr;
  std::vector<Branch> branches = {};
  std::vector<Parameter> parameters = {};
  Body body = {};
  Body otherwise = {};
};

/// Throws Error(kParse), or Error(kUnsupported) for what this implementation leaves out, with a
/// message that begins with the line.
Body parse_template(std::string_view source);

}  // namespace freekv::jinja

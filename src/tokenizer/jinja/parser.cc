// Statements.
#include "tokenizer/jinja/parser.hpp"

#include <initializer_list>

#include "io/quote.hpp"

namespace freekv::jinja {
namespace {

class Parser : public ExpressionParser {
  using Kind = Statement::Kind;

 public:
  using ExpressionParser::ExpressionParser;

  Body run() {
    Body body = statements({});
    if (current().kind != Token::Kind::kEnd) {
      fail_here("unexpected {}", quoted(current().text));
    }
    return body;
  }

 private:
  /// Up to a tag of one of these names, which is left as the current token; without names up to the
  /// end of the template.
  Body statements(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    Body body;
    while (current().kind != Token::Kind::kEnd) {
      Statement statement;
      statement.line = current().line;
      if (current().kind == Token::Kind::kData) {
        statement.name = take().text;
      } else if (current().kind == Token::Kind::kVariableBegin) {
        take();
        statement.kind = Kind::kPrint;
        statement.value = tuple(true);
        expect(Token::Kind::kVariableEnd, "'}}'");
      } else {
        expect(Token::Kind::kBlockBegin, "a tag");
        for (const std::string_view end : ends) {
          if (is_name(end)) return body;
        }
        tag(statement);
        end_tag();
      }
      body.push_back(std::move(statement));
    }
    if (ends.size() > 0) fail_here("the template ends before '{}'", *(ends.end() - 1));
    return body;
  }

  void end_tag() { expect(Token::Kind::kBlockEnd, "'%}'"); }

  /// From the end of an opening tag to the name of a closing one, which is taken.
  Body block(std::string_view end) {
    skip_operator(":");
    end_tag();
    Body body = statements({end});
    take();
    return body;
  }

  void tag(Statement& s) {
    const std::string name = expect_name();
    if (name == "if") return if_tag(s);
    if (name == "for") return for_tag(s);
    if (name == "set") return set_tag(s);
    if (name == "macro") return macro_tag(s);
    if (name == "call") return call_tag(s);
    if (name == "with") return with_tag(s);
    if (name == "filter") {
      s.kind = Kind::kFilter;
      s.value = filters(filter(nullptr));
      s.body = scope("endfilter");
      return;
    }
    if (name == "generation") {
      s.kind = Kind::kGeneration;
      s.body = outside_of_loops("endgeneration");
      return;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_here("'{}' outside of a loop", name);
      s.kind = name == "break" ? Kind::kBreak : Kind::kContinue;
      return;
    }
    if (name.starts_with("end") || name == "else" || name == "elif") {
      fail_here("unexpected tag '{}'", name);
    }
    unsupported("the tag {}", quoted(name));
  }

  void if_tag(Statement& s) {
    s.kind = Kind::kIf;
    bool more = true;
    while (more) {
      Statement::Branch branch;
      branch.test = tuple(false);
      skip_operator(":");
      end_tag();
      branch.body = statements({"elif", "else", "endif"});
      more = is_name("elif");
      const bool last = is_name("else");
      take();
      s.branches.push_back(std::move(branch));
      if (last) s.branches.push_back({nullptr, block("endif")});
    }
  }

  void for_tag(Statement& s) {
    s.kind = Kind::kFor;
    s.target = target(false);
    if (!skip_name("in")) fail_here("expected 'in', got {}", quoted(current().text));
    s.value = tuple(false);
    if (skip_name("if")) s.test = expression();
    if (is_name("recursive")) unsupported("a recursive loop");
    skip_operator(":");
    end_tag();
    ++loops_;
    s.body = statements({"else", "endfor"});
    --loops_;
    const bool otherwise = is_name("else");
    take();
    if (otherwise) s.otherwise = block("endfor");
  }

  void set_tag(Statement& s) {
    s.target = target(true);
    if (skip_operator("=")) {
      s.kind = Kind::kSet;
      s.value = tuple(true);
      return;
    }
    s.kind = Kind::kSetBlock;
    if (is_operator("|")) s.value = filters(nullptr);
    s.body = scope("endset");
  }

  void parameters(Statement& s) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!s.parameters.empty()) expect_operator(",");
      Parameter parameter{expect_name(), nullptr};
      if (skip_operator("=")) {
        parameter.value = expression();
      } else if (!s.parameters.empty() && s.parameters.back().value) {
        fail_here("a parameter without a default after one with it");
      }
      s.parameters.push_back(std::move(parameter));
    }
    expect_operator(")");
  }

  /// A body with variables of its own.
  Body scope(std::string_view end) {
    ++scopes_;
    Body body = block(end);
    --scopes_;
    return body;
  }

  /// A body that is a function of its own: break and continue do not reach the loops around it.
  Body outside_of_loops(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = scope(end);
    loops_ = loops;
    return body;
  }

  void macro_tag(Statement& s) {
    // A macro sees the variables around it for as long as it lives, which must be to the end.
    if (loops_ > 0 || scopes_ > 0) unsupported("a macro inside a loop or another body");
    s.kind = Kind::kMacro;
    s.name = expect_name();
    parameters(s);
    s.body = outside_of_loops("endmacro");
  }

  void call_tag(Statement& s) {
    s.kind = Kind::kCall;
    if (is_operator("(")) parameters(s);
    s.value = expression();
    if (s.value->kind != Expression::Kind::kCall) fail_here("expected a call");
    s.body = outside_of_loops("endcall");
  }

  void with_tag(Statement& s) {
    s.kind = Kind::kWith;
    while (current().kind != Token::Kind::kBlockEnd) {
      if (!s.parameters.empty()) expect_operator(",");
      Parameter parameter{expect_name(), nullptr};
      expect_operator("=");
      parameter.value = expression();
      s.parameters.push_back(std::move(parameter));
    }
    s.body = scope("endwith");
  }

  int loops_ = 0;   // around this place, within the function
  int scopes_ = 0;  // bodies with variables of their own around this place, loops apart
};

}  // namespace

Body parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace freekv::jinja

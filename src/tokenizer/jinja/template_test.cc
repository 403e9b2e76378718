// What test_templates.py does not hold against jinja2: limits, and errors of one line.
#include "tokenizer/jinja/template.hpp"

#include <gtest/gtest.h>

namespace freekv::jinja {
namespace {

std::string repeated(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

Error error_of(const std::string& source, size_t limit = size_t{1} << 20) {
  auto parsed = Template::parse(source);
  if (!parsed.ok()) return parsed.error();
  Dict variables;
  variables.items.emplace_back("name", "Ada");
  auto text = parsed.value().render(variables, limit);
  if (!text.ok()) return text.error();
  ADD_FAILURE() << "rendered: " << text.value().substr(0, 80);
  return Error(ErrorCode::kInternal, "");
}

struct Case {
  const char* source;
  const char* message;
  ErrorCode code;
};

TEST(JinjaTemplate, ErrorsNameLineAndFeature) {
  using enum ErrorCode;
  const Case cases[] = {
      {"a\n{% include 'x' %}", "line 2: the tag 'include' is not supported", kUnsupported},
      {"\n\n{{ name | urlencode }}", "line 3: the filter 'urlencode' is not supported",
       kUnsupported},
      {"{{ name is escaped }}", "line 1: the test 'escaped' is not supported", kUnsupported},
      {"{{ name.encode() }}", "line 1: the method 'encode' of str is not supported", kUnsupported},
      {"{% for x in name recursive %}{% endfor %}", "line 1: a recursive loop is not supported",
       kUnsupported},
      {"\n{{ f(*name) }}", "line 2: unpacking arguments with '*' is not supported", kUnsupported},
      {"{{ 'a' % 1 }}", "line 1: formatting text with '%' is not supported", kUnsupported},
      {"{{ 'ß' | upper }}", "line 1: upper or lower case of characters that are not ASCII",
       kUnsupported},
      {"{{ (name | safe) + '<' }}", "line 1: the filter 'safe' is not supported", kUnsupported},
      {"x\n{% if name %}", "line 2: the template ends before 'endif'", kParse},
      {"{{ name", "line 1: a tag without its end", kParse},
      {"{{ name.x.y }}", "line 1: 'str object' has no attribute 'x'", kInvalidArgument},
      {"\n{{ nobody.x }}", "line 2: 'nobody' is undefined", kInvalidArgument},
      {"\n{{ raise_exception('not so') }}", "line 2: not so", kInvalidArgument},
      {"{{ 9223372036854775807 + 1 }}", "line 1: integers beyond 64 bits are not supported",
       kUnsupported},
  };
  for (const Case& c : cases) {
    const Error error = error_of(c.source);
    EXPECT_EQ(error.message(), c.message);
    EXPECT_EQ(error.code(), c.code) << c.source;
  }
}

TEST(JinjaTemplate, WorkIsBounded) {
  for (const char* source : {
           "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
           "{% endfor %}",
           "{{ 'x' * 1000000000000 }}",
           "{{ ['x'] * 9223372036854775807 }}",
           "{{ name | replace('', 'x' * 100000) | replace('x', 'y' * 100000) }}",
           "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
           "{{ name | indent(1000000000000) }}",
           "{{ [1] | tojson(indent=1000000000000) }}",
       }) {
    EXPECT_EQ(error_of(source).code(), ErrorCode::kOutOfMemory) << source;
  }
}

TEST(JinjaTemplate, DepthIsBounded) {
  for (const std::string& source : {
           "{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}",
           "{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}",
           "{{ " + repeated("not ", 5000) + "1 }}",
           "{{ " + repeated("-", 5000) + "1 }}",
           "{{ 1" + repeated(" + 1", 5000) + " }}",
           "{{ name" + repeated(".x", 5000) + " }}",
           "{{ name" + repeated(" | trim", 5000) + " }}",
           "{{ 1" + repeated(" if 1 else 1", 5000) + " }}",
           repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000),
           std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
           std::string("{% set ns = namespace(a=[]) %}{% for i in range(999) %}"
                       "{% set ns.a = [ns.a] %}{% endfor %}"),
       }) {
    const ErrorCode code = error_of(source).code();
    EXPECT_TRUE(code == ErrorCode::kParse || code == ErrorCode::kUnsupported)
        << source.substr(0, 40) << ": " << static_cast<int>(code);
  }
}

TEST(JinjaTemplate, BytesThatAreNoTextPassThrough) {
  auto parsed = Template::parse("{{ name | trim }}|{{ name[:2] }}|{{ name | length }}");
  Dict variables;
  variables.items.emplace_back("name", " \xff\xc3(\xe2\x82 ");
  // Each byte that begins no character counts as one.
  EXPECT_EQ(parsed.value().render(variables).value(), "\xff\xc3(\xe2\x82| \xff|7");
}

}  // namespace
}  // namespace freekv::jinja

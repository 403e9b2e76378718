#include "line_reader.hpp"

#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstring>
#include <cwchar>
#include <iostream>

namespace freekv::app {
namespace {

constexpr int kHistoryLines = 1000;
constexpr wchar_t kCtrlC = 0x03, kCtrlZ = 0x1a;
// Stands for the line ends inside pasted text while it is edited.
constexpr wchar_t kPastedLineEnd = L'\u23ce';
constexpr char kPastedLineEndBytes[] = "\xe2\x8f\x8e";
constexpr std::string_view kPasteBegin = "\x1b[200~", kPasteEnd = "\x1b[201~";

// libedit works on wide characters: characters beyond ASCII need a locale that knows them.
void use_utf8_characters() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

void write_terminal(std::string_view text) { std::cout << text << std::flush; }

}  // namespace

struct LineReader::Impl {
  EditLine* editor = nullptr;  // null unless a person types
  History* history = nullptr;
  std::string prompt;
  bool abandoned = false;
  bool pasting = false;
  std::string pending;  // bytes read that are not given to the editor yet

  static Impl& of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<Impl*>(self);
  }

  static char* prompt_text(EditLine* editor) { return of(editor).prompt.data(); }

  // The editor's next character: 1, or 0 at the end of input, or -1.
  static int next_of(EditLine* editor, wchar_t* out) { return of(editor).next(out); }

  int next(wchar_t* out) {
    while (true) {
      if (pending.empty()) {
        if (const int got = fill(); got <= 0) return got;
      }
      if (skip(kPasteBegin, true) || skip(kPasteEnd, false)) continue;
      const int length = decode(out);
      if (length == 0) continue;
      pending.erase(0, static_cast<size_t>(length));
      if (pasting && (*out == L'\n' || *out == L'\r')) *out = kPastedLineEnd;
      if (pasting && *out == L'\t') *out = L' ';
      if (!pasting && *out == kCtrlC) {
        abandoned = true;
        *out = L'\n';
      }
      if (!pasting && *out == kCtrlZ) {
        suspend();
        continue;
      }
      return 1;
    }
  }

  void suspend() {
    el_set(editor, EL_PREP_TERM, 0);
    std::raise(SIGTSTP);
    el_set(editor, EL_PREP_TERM, 1);
    el_set(editor, EL_REFRESH);
  }

  int fill() {
    char bytes[4096];
    const ssize_t got = ::read(STDIN_FILENO, bytes, sizeof(bytes));
    if (got < 0) return errno == EINTR ? fill() : -1;
    pending.append(bytes, static_cast<size_t>(got));
    return got > 0 ? 1 : 0;
  }

  // Takes one of the marks that a terminal puts around pasted text.
  bool skip(std::string_view mark, bool begins) {
    if (!pending.starts_with(mark)) return false;
    pending.erase(0, mark.size());
    pasting = begins;
    return true;
  }

  // Bytes of the first pending character, 0 when more had to be read.
  int decode(wchar_t* out) {
    std::mbstate_t state{};
    const size_t length = std::mbrtowc(out, pending.data(), pending.size(), &state);
    if (length == static_cast<size_t>(-2) && fill() > 0) return 0;
    if (length <= pending.size() && length > 0) return static_cast<int>(length);
    *out = length == 0 ? L'\0' : L'\ufffd';
    return 1;
  }

  std::optional<std::string> edit() {
    abandoned = false;
    write_terminal("\x1b[?2004h");  // pasted text comes marked
    // Before the prompt is drawn: what is typed in answer to it must not be echoed, nor a Ctrl-C
    // become a signal. The editor itself would change the mode only when it reads.
    el_set(editor, EL_PREP_TERM, 1);
    int count = 0;
    const char* const line = el_gets(editor, &count);
    write_terminal("\x1b[?2004l");
    if (abandoned) {
      write_terminal("^C\n");
      return "";
    }
    if (!line || count <= 0) return std::nullopt;
    std::string text(line);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (!text.empty()) {
      HistEvent event;
      ::history(history, &event, H_ENTER, text.c_str());
    }
    for (size_t at = 0; (at = text.find(kPastedLineEndBytes, at)) != std::string::npos; ++at) {
      text.replace(at, std::strlen(kPastedLineEndBytes), 1, '\n');
    }
    return text;
  }
};

LineReader::LineReader() : impl_(std::make_unique<Impl>()) {
  if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return;
  use_utf8_characters();
  impl_->editor = el_init("freekv", stdin, stdout, stderr);
  if (!impl_->editor) return;
  EditLine* const editor = impl_->editor;
  el_set(editor, EL_CLIENTDATA, impl_.get());
  el_set(editor, EL_PROMPT, &Impl::prompt_text);
  el_set(editor, EL_EDITOR, "emacs");
  el_wset(editor, EL_GETCFN, &Impl::next_of);
  // Ctrl-C and Ctrl-Z arrive as characters while a line is edited, else as signals.
  el_set(editor, EL_SETTY, "-d", "-isig", nullptr);
  impl_->history = history_init();
  HistEvent event;
  ::history(impl_->history, &event, H_SETSIZE, kHistoryLines);
  el_set(editor, EL_HIST, ::history, impl_->history);
}

LineReader::~LineReader() {
  if (!impl_->editor) return;
  history_end(impl_->history);
  el_end(impl_->editor);
}

bool LineReader::interactive() const { return impl_->editor != nullptr; }
bool LineReader::abandoned() const { return impl_->abandoned; }

std::optional<std::string> LineReader::read(const std::string& prompt) {
  impl_->prompt = prompt;
  if (impl_->editor) return impl_->edit();
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

}  // namespace freekv::app

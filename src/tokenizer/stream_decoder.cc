#include "tokenizer/stream_decoder.hpp"

#include "tokenizer/utf8.hpp"

namespace freekv {

std::string_view StreamDecoder::push(int32_t token) {
  const std::string_view bytes = tokenizer_->token_bytes(token);
  buffer_.erase(0, handed_out_);
  if (special_ || !tokenizer_->is_control(token)) {
    buffer_ += bytes;
    if (at_start_ && !bytes.empty()) {
      if (bytes.starts_with(' ')) buffer_.erase(0, 1);
      at_start_ = false;
    }
  }
  handed_out_ = buffer_.size() - utf8_incomplete_suffix(buffer_);
  return std::string_view(buffer_).substr(0, handed_out_);
}

std::string_view StreamDecoder::flush() {
  buffer_.erase(0, handed_out_);
  handed_out_ = buffer_.size();
  return buffer_;
}

}  // namespace freekv
